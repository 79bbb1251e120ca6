/* Rounding and saturation on integers: rules N-1 to N-6 of the specification. */
#ifndef REFIMPL_NUMERICS_H
#define REFIMPL_NUMERICS_H

#include <stdint.h>

/*
 * ISO C leaves the right shift of a negative integer to the compiler. The rules need an arithmetic shift, as
 * every compiler for two's complement targets gives; this line refuses to compile anywhere else.
 */
typedef char refimpl_needs_arithmetic_shift[((-3) >> 1) == -2 ? 1 : -1];

/* N-4 */
static inline int32_t saturate(int32_t v, int32_t lowest, int32_t highest)
{
    return v < lowest ? lowest : v > highest ? highest : v;
}

static inline int32_t saturate64(int64_t v, int32_t lowest, int32_t highest)
{
    return v < lowest ? lowest : v > highest ? highest : (int32_t)v;
}

/* N-1: floor(v / 2^n) */
static inline int32_t shift_floor(int32_t v, int32_t n)
{
    return v >> n;
}

/* N-2 in 32 bits: half up, ties toward plus infinity; no rounding constant at n <= 0 */
static inline int32_t norm(int32_t v, int32_t n)
{
    return n > 0 ? (v + ((int32_t)1 << (n - 1))) >> n : v;
}

/* N-2 in 64 bits */
static inline int64_t norm64(int64_t v, int32_t n)
{
    return n > 0 ? (v + ((int64_t)1 << (n - 1))) >> n : v;
}

/* N-3: to nearest, ties to even; |v| < 2^62 */
static inline int64_t shift_half_even(int64_t v, int32_t n)
{
    int64_t quotient, remainder, half;

    if (n <= 0) {
        return v;
    }
    if (n >= 63) {
        return 0;
    }
    quotient = v >> n;
    remainder = v - quotient * ((int64_t)1 << n);
    half = (int64_t)1 << (n - 1);
    return quotient + (remainder > half || (remainder == half && (quotient & 1) != 0));
}

/* N-5: shift to the right (n > 0) or to the left (n < 0), saturated to int32; |v| < 2^62 */
static inline int32_t shift_saturate_int32(int64_t v, int32_t n)
{
    if (n >= 63) {
        return 0;
    }
    if (n >= 0) {
        return saturate64(norm64(v, n), INT32_MIN, INT32_MAX);
    }
    n = n < -31 ? 31 : -n;
    return saturate64((int64_t)saturate64(v, INT32_MIN, INT32_MAX) * ((int64_t)1 << n), INT32_MIN, INT32_MAX);
}

/* bitlen(v): the number of bits of v, 0 for 0 */
static inline int32_t bit_length(uint64_t v)
{
    int32_t bits = 0;
    int32_t step;

    for (step = 32; step > 0; step >>= 1) {
        if (v >> step != 0) {
            v >>= step;
            bits += step;
        }
    }
    return bits + (v != 0);
}

/*
 * N-6: an FP32 pattern to the nearest integer, ties to even, within [lowest, highest]; NaN gives 0. Integer
 * operations only, in both builds. The bounds are below 2^25 in magnitude, so what is clamped first is
 * clamped again.
 */
static inline int32_t round_half_even_f32(uint32_t pattern, int32_t lowest, int32_t highest)
{
    const uint32_t magnitude = pattern & 0x7FFFFFFFu;
    const int32_t field = (int32_t)(magnitude >> 23);
    int64_t v;

    if (magnitude > 0x7F800000u) {
        return 0;
    }
    if (field >= 127 + 25) {
        v = (int64_t)1 << 25;
    } else {
        v = (int64_t)(magnitude & 0x007FFFFFu) + (field > 0 ? 0x00800000 : 0);
        v = shift_half_even(v << 2, 152 - (field > 0 ? field : 1));
    }
    return saturate64(pattern >> 31 != 0 ? -v : v, lowest, highest);
}

#endif
