/* BF16: rules B-1 to B-5. A BF16 value is its 16-bit pattern. */
#ifndef REFIMPL_BF16_H
#define REFIMPL_BF16_H

#include <stdint.h>

#include "float32.h"
#include "numerics.h"

typedef uint16_t bf16_t;

/* B-1: FP32 to BF16, to nearest even; every NaN becomes 0x7FC0 */
static inline bf16_t bf16_from_f32(f32_t value)
{
    const uint32_t bits = f32_bits(value);

    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return 0x7FC0;
    }
    return (bf16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* B-2: BF16 to FP32, exact */
static inline f32_t f32_from_bf16(bf16_t pattern)
{
    return f32_from_bits((uint32_t)pattern << 16);
}

/* B-3: one FP32 addition, one rounding */
static inline bf16_t bf16_add(bf16_t a, bf16_t b)
{
    return bf16_from_f32(f32_add(f32_from_bf16(a), f32_from_bf16(b)));
}

/* B-4: one FP32 multiplication, one rounding */
static inline bf16_t bf16_multiply(bf16_t a, bf16_t b)
{
    return bf16_from_f32(f32_multiply(f32_from_bf16(a), f32_from_bf16(b)));
}

/* B-5: m * 2^k with one rounding; -126 <= k and k + 32 <= 127, so the result is zero or normal */
static inline bf16_t bf16_from_scaled(int32_t m, int32_t k)
{
    const int64_t magnitude = m < 0 ? -(int64_t)m : m;
    const int32_t width = bit_length((uint64_t)magnitude);
    int32_t fraction;

    if (m == 0) {
        return 0;
    }
    fraction = (int32_t)shift_half_even(magnitude, width - 8) << (width < 8 ? 8 - width : 0);
    /* fraction is 128 to 256; 256 carries into the exponent */
    return (bf16_t)(((width - 1 + k + 127) * 128 + (fraction - 128)) | (m < 0 ? 0x8000 : 0));
}

#endif
