/*
 * The three FP32 operations that the BF16 rules need: addition, multiplication, conversion from int32. Each
 * rounds to nearest even and keeps subnormals, once, as IEEE 754 says.
 *
 * Two builds give the same bits:
 *   default            the compiler's float: needs FLT_EVAL_METHOD 0 and no contraction (-ffp-contract=off)
 *   REFIMPL_NO_FLOAT   integers only; a value is its 32-bit pattern
 * NaN is any NaN: its sign and payload differ between the builds and never leave a BF16 rule (B-1 gives
 * 0x7FC0).
 */
#ifndef REFIMPL_FLOAT32_H
#define REFIMPL_FLOAT32_H

#include <stdint.h>

#include "numerics.h"

#ifndef REFIMPL_NO_FLOAT

#include <float.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "float operations must round to FP32 each; build with REFIMPL_NO_FLOAT or another floating point mode"
#endif

typedef float f32_t;

static inline f32_t f32_from_bits(uint32_t bits)
{
    f32_t value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t f32_bits(f32_t value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline f32_t f32_add(f32_t a, f32_t b)
{
    return a + b;
}

static inline f32_t f32_multiply(f32_t a, f32_t b)
{
    return a * b;
}

static inline f32_t f32_from_int32(int32_t v)
{
    return (f32_t)v;
}

#else

typedef uint32_t f32_t;

#define F32_NAN 0x7FC00000u
#define F32_INFINITY 0x7F800000u

static inline f32_t f32_from_bits(uint32_t bits)
{
    return bits;
}

static inline uint32_t f32_bits(f32_t value)
{
    return value;
}

/*
 * sign * m * 2^exponent, rounded to FP32; m < 2^62. A caller that has dropped bits below m sets the lowest
 * bit of m (sticky); it must then leave at least two more bits than FP32 keeps.
 */
static inline f32_t f32_round(uint32_t sign, uint64_t m, int32_t exponent)
{
    const int32_t width = bit_length(m);
    int32_t field = width - 1 + exponent + 127;     /* of a normal number */
    int32_t drop;
    uint64_t fraction;

    if (m == 0) {
        return sign;
    }
    if (field >= 255) {
        return sign | F32_INFINITY;
    }
    if (field < 1) {
        field = 1;                                  /* subnormal: the quantum of the smallest normals */
    }
    drop = field - 127 - 23 - exponent;             /* bits of m below the quantum */
    fraction = drop > 0 ? (uint64_t)shift_half_even((int64_t)m, drop) : m << -drop;
    return sign + ((uint32_t)(field - 1) << 23) + (uint32_t)fraction;   /* a carry moves into the exponent */
}

static inline uint64_t f32_significand(f32_t a)
{
    return (a & 0x007FFFFFu) | ((a & F32_INFINITY) != 0 ? 0x00800000u : 0);
}

/* The exponent of the significand's lowest bit */
static inline int32_t f32_quantum(f32_t a)
{
    const int32_t field = (int32_t)(a >> 23 & 0xFF);

    return (field > 0 ? field : 1) - 150;
}

static inline int f32_is_nan(f32_t a)
{
    return (a & 0x7FFFFFFFu) > F32_INFINITY;
}

static inline int f32_is_infinite(f32_t a)
{
    return (a & 0x7FFFFFFFu) == F32_INFINITY;
}

static inline f32_t f32_add(f32_t a, f32_t b)
{
    uint32_t sign;
    uint64_t large, small;
    int32_t distance;

    if (f32_is_nan(a) || f32_is_nan(b)) {
        return F32_NAN;
    }
    if ((a & 0x7FFFFFFFu) < (b & 0x7FFFFFFFu)) {
        const f32_t swap = a;

        a = b;
        b = swap;
    }
    if (f32_is_infinite(a)) {
        return f32_is_infinite(b) && a != b ? F32_NAN : a;
    }
    sign = a & 0x80000000u;
    large = f32_significand(a) << 36;
    small = f32_significand(b) << 36;
    distance = f32_quantum(a) - f32_quantum(b);
    if (distance >= 60) {
        small = small != 0;
    } else {
        small = small >> distance | ((small & (((uint64_t)1 << distance) - 1)) != 0);
    }
    if (sign == (b & 0x80000000u)) {
        return f32_round(sign, large + small, f32_quantum(a) - 36);
    }
    return large == small ? 0 : f32_round(sign, large - small, f32_quantum(a) - 36);
}

static inline f32_t f32_multiply(f32_t a, f32_t b)
{
    const uint32_t sign = (a ^ b) & 0x80000000u;

    if (f32_is_nan(a) || f32_is_nan(b)) {
        return F32_NAN;
    }
    if (f32_is_infinite(a) || f32_is_infinite(b)) {
        return (a & 0x7FFFFFFFu) == 0 || (b & 0x7FFFFFFFu) == 0 ? F32_NAN : sign | F32_INFINITY;
    }
    return f32_round(sign, f32_significand(a) * f32_significand(b), f32_quantum(a) + f32_quantum(b));
}

static inline f32_t f32_from_int32(int32_t v)
{
    const uint32_t sign = v < 0 ? 0x80000000u : 0;

    return v == 0 ? 0 : f32_round(sign, (uint64_t)(v < 0 ? -(int64_t)v : v), 0);
}

#endif

#endif
