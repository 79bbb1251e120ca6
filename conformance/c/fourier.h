/*
 * Short-time Fourier transform and its inverse in block fixed point, overlap-add, PCM: section 10 of the
 * specification. Sizes are fixed (M-1): 256 samples, 129 bins, hop 96, tail 64.
 */
#ifndef REFIMPL_FOURIER_H
#define REFIMPL_FOURIER_H

#include <stdint.h>

#include "operators.h"

#define REFIMPL_HOP 96
#define REFIMPL_FRAME 256
#define REFIMPL_BINS 129
#define REFIMPL_TAIL 64
#define REFIMPL_SYNTHESIS (REFIMPL_HOP + REFIMPL_TAIL)

/* F-4 */
typedef struct {
    const int32_t *window;          /* Q1.30 [256], F-2 */
    const int32_t *twiddle;         /* Q1.30 [129, 2], F-1 */
} stft_t;

/* F-6 */
typedef struct {
    int32_t m, n, zero_point, lowest, highest;
} block_to_code_t;

/* F-7, F-8: the channels of each speaker (M-11) */
typedef struct {
    const uint8_t *re;
    const uint8_t *im;
    int32_t zero_point, shift;      /* F-8 only */
} to_block_t;

/* F-9 */
typedef struct {
    const int32_t *window;          /* [160], F-17 */
    const int32_t *twiddle;
    int32_t base_shift;
} istft_t;

/* frame [256] -> mantissa [129, 2] and its exponent */
void stft(const int16_t *frame, const stft_t *constants, int32_t *mantissa, int32_t *exponent);
/* [129, 2], count is the number of elements */
void block_to_bf16(const int32_t *mantissa, const int32_t *exponent, uint32_t count, bf16_t *y);
void block_to_code(const int32_t *mantissa, const int32_t *exponent, uint32_t count,
                   const block_to_code_t *constants, target_t y);
/* x [bins, channels] -> mantissa [speakers, bins, 2] and exponent [speakers] */
void bf16_to_block(const bf16_t *x, uint32_t bins, uint32_t channels, const to_block_t *constants,
                   uint32_t speakers, int32_t *mantissa, int32_t *exponent);
void code_to_block(source_t x, uint32_t bins, uint32_t channels, const to_block_t *constants,
                   uint32_t speakers, int32_t *mantissa, int32_t *exponent);
/* mantissa [speakers, 129, 2], exponent [speakers] -> head [speakers, 96], tail [speakers, 64] */
void istft(const int32_t *mantissa, const int32_t *exponent, uint32_t speakers, const istft_t *constants,
           int32_t *head, int32_t *tail);
/* head [speakers, 96], tail of the previous frame [speakers, 64] -> y [speakers, 96] */
void overlap_add(const int32_t *head, const int32_t *tail, uint32_t speakers, int32_t *y);
/* x [speakers, samples] -> pcm of the same shape, clipped [speakers] */
void to_pcm(const int32_t *x, uint32_t speakers, uint32_t samples, int16_t *pcm, int32_t *clipped);

#endif
