/* Section 10 of the specification. */
#include "fourier.h"

#define POINTS 128

/* v in units of 2^-30 */
static int64_t times_one(int64_t v)
{
    return v * ((int64_t)1 << 30);
}

/* The number below 128 whose 7 bits are those of i in reverse */
static uint32_t reverse7(uint32_t i)
{
    uint32_t j = 0;
    uint32_t bit;

    for (bit = 0; bit < 7; bit++) {
        j |= (i >> bit & 1) << (6 - bit);
    }
    return j;
}

/* F-3, in place, unscaled; sign is 1 forward, -1 inverse */
static void fft128(int32_t *zr, int32_t *zi, const int32_t *twiddle, int32_t sign)
{
    uint32_t i, size, base, j;

    for (i = 0; i < POINTS; i++) {
        j = reverse7(i);
        if (j > i) {
            const int32_t r = zr[i];
            const int32_t m = zi[i];

            zr[i] = zr[j];
            zi[i] = zi[j];
            zr[j] = r;
            zi[j] = m;
        }
    }
    for (size = 2; size <= POINTS; size *= 2) {
        const uint32_t half = size / 2;

        for (base = 0; base < POINTS; base += size) {
            for (j = 0; j < half; j++) {
                const int64_t c = twiddle[2 * (j * 256 / size)];
                const int64_t s = (int64_t)twiddle[2 * (j * 256 / size) + 1] * sign;
                const uint32_t a = base + j;
                const uint32_t b = a + half;
                const int32_t tr = (int32_t)norm64(zr[b] * c - zi[b] * s, 30);
                const int32_t ti = (int32_t)norm64(zr[b] * s + zi[b] * c, 30);

                zr[b] = zr[a] - tr;
                zi[b] = zi[a] - ti;
                zr[a] = zr[a] + tr;
                zi[a] = zi[a] + ti;
            }
        }
    }
}

/* F-4 */
void stft(const int16_t *frame, const stft_t *constants, int32_t *mantissa, int32_t *exponent)
{
    int32_t zr[POINTS], zi[POINTS];
    int32_t peak = 0;
    int32_t e = 0;
    uint32_t n, k;

    for (n = 0; n < REFIMPL_FRAME; n++) {
        const int32_t magnitude = frame[n] < 0 ? -(int32_t)frame[n] : frame[n];

        peak = magnitude > peak ? magnitude : peak;
    }
    while (peak > 0 && peak * ((int32_t)1 << e) < 1 << 14) {
        e++;
    }
    for (n = 0; n < POINTS; n++) {
        const int64_t even = frame[2 * n] * ((int64_t)1 << e);
        const int64_t odd = frame[2 * n + 1] * ((int64_t)1 << e);

        zr[n] = (int32_t)norm64(even * constants->window[2 * n], 23);
        zi[n] = (int32_t)norm64(odd * constants->window[2 * n + 1], 23);
    }
    fft128(zr, zi, constants->twiddle, 1);
    for (k = 0; k < REFIMPL_BINS; k++) {
        const uint32_t p = k % POINTS;
        const uint32_t q = (POINTS - k) % POINTS;
        const int64_t c = constants->twiddle[2 * k];
        const int64_t s = constants->twiddle[2 * k + 1];
        const int64_t ur = (int64_t)zr[p] + zr[q];
        const int64_t ui = (int64_t)zi[p] - zi[q];
        const int64_t wr = (int64_t)zi[p] + zi[q];
        const int64_t wi = (int64_t)zr[q] - zr[p];

        mantissa[2 * k] = (int32_t)norm64(times_one(ur) + wr * c - wi * s, 31);
        mantissa[2 * k + 1] = (int32_t)norm64(times_one(ui) + wr * s + wi * c, 31);
    }
    *exponent = e;
}

/* F-5 */
void block_to_bf16(const int32_t *mantissa, const int32_t *exponent, uint32_t count, bf16_t *y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        y[i] = bf16_from_scaled(mantissa[i], -22 - *exponent);
    }
}

/* F-6 */
void block_to_code(const int32_t *mantissa, const int32_t *exponent, uint32_t count,
                   const block_to_code_t *constants, target_t y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        const int64_t v = shift_half_even((int64_t)mantissa[i] * constants->m, constants->n + *exponent);

        store(y, i, saturate64(v + constants->zero_point, constants->lowest, constants->highest));
    }
}

/* The magnitude bits of a BF16 part as F-7 counts them: NaN as +0, infinity as the largest finite value */
static uint32_t block_magnitude(bf16_t pattern)
{
    const uint32_t magnitude = pattern & 0x7FFFu;

    return magnitude > 0x7F80u ? 0 : magnitude == 0x7F80u ? 0x7F7Fu : magnitude;
}

static int32_t block_mantissa(bf16_t pattern, uint32_t largest_field)
{
    const uint32_t magnitude = block_magnitude(pattern);
    const uint32_t field = magnitude >> 7;
    const int64_t u = (magnitude & 127u) + (field > 0 ? 128u : 0);
    const int32_t m = (int32_t)shift_half_even(u << 13, (int32_t)(largest_field - (field > 0 ? field : 1)));

    return (pattern & 0x8000u) != 0 ? -m : m;
}

/* F-7, with the channels of M-11 */
void bf16_to_block(const bf16_t *x, uint32_t bins, uint32_t channels, const to_block_t *constants,
                   uint32_t speakers, int32_t *mantissa, int32_t *exponent)
{
    uint32_t s, f;

    for (s = 0; s < speakers; s++) {
        const bf16_t *re = x + constants->re[s];
        const bf16_t *im = x + constants->im[s];
        uint32_t largest = 0;
        uint32_t field;

        for (f = 0; f < bins; f++) {
            const uint32_t a = block_magnitude(re[f * channels]);
            const uint32_t b = block_magnitude(im[f * channels]);

            largest = a > largest ? a : largest;
            largest = b > largest ? b : largest;
        }
        field = largest >> 7 > 0 ? largest >> 7 : 1;
        for (f = 0; f < bins; f++) {
            mantissa[(s * bins + f) * 2] = block_mantissa(re[f * channels], field);
            mantissa[(s * bins + f) * 2 + 1] = block_mantissa(im[f * channels], field);
        }
        exponent[s] = largest == 0 ? 0 : 147 - (int32_t)field;
    }
}

/* F-8, with the channels of M-11 */
void code_to_block(source_t x, uint32_t bins, uint32_t channels, const to_block_t *constants,
                   uint32_t speakers, int32_t *mantissa, int32_t *exponent)
{
    const int32_t unit = (int32_t)1 << constants->shift;
    uint32_t s, f;

    for (s = 0; s < speakers; s++) {
        for (f = 0; f < bins; f++) {
            const int32_t re = load(x, f * channels + constants->re[s]) - constants->zero_point;
            const int32_t im = load(x, f * channels + constants->im[s]) - constants->zero_point;

            mantissa[(s * bins + f) * 2] = re * unit;
            mantissa[(s * bins + f) * 2 + 1] = im * unit;
        }
        exponent[s] = 0;
    }
}

/* F-9 for one speaker */
static void istft_speaker(const int32_t *mantissa, int32_t exponent, const istft_t *constants, int32_t *head,
                          int32_t *tail)
{
    int32_t zr[POINTS], zi[POINTS];
    uint32_t k, i;

    for (k = 0; k < POINTS; k++) {
        const uint32_t q = POINTS - k;
        const int64_t c = constants->twiddle[2 * k];
        const int64_t s = constants->twiddle[2 * k + 1];
        const int32_t im_k = k == 0 ? 0 : mantissa[2 * k + 1];     /* bins 0 and 128 are real */
        const int32_t im_q = k == 0 ? 0 : mantissa[2 * q + 1];
        const int32_t dr = mantissa[2 * k] - mantissa[2 * q];
        const int32_t di = im_k + im_q;

        zr[k] = (int32_t)norm64(times_one(mantissa[2 * k] + mantissa[2 * q]) - (di * c - dr * s), 30);
        zi[k] = (int32_t)norm64(times_one(im_k - im_q) + (dr * c + di * s), 30);
    }
    fft128(zr, zi, constants->twiddle, -1);
    for (i = 0; i < REFIMPL_SYNTHESIS; i++) {
        const uint32_t n = REFIMPL_FRAME - REFIMPL_SYNTHESIS + i;
        const int64_t x = n % 2 == 0 ? zr[n / 2] : zi[n / 2];
        const int32_t y = shift_saturate_int32(x * constants->window[i], constants->base_shift + exponent);

        if (i < REFIMPL_HOP) {
            head[i] = y;
        } else {
            tail[i - REFIMPL_HOP] = y;
        }
    }
}

void istft(const int32_t *mantissa, const int32_t *exponent, uint32_t speakers, const istft_t *constants,
           int32_t *head, int32_t *tail)
{
    uint32_t s;

    for (s = 0; s < speakers; s++) {
        istft_speaker(mantissa + s * REFIMPL_BINS * 2, exponent[s], constants, head + s * REFIMPL_HOP,
                      tail + s * REFIMPL_TAIL);
    }
}

/* F-10 */
void overlap_add(const int32_t *head, const int32_t *tail, uint32_t speakers, int32_t *y)
{
    uint32_t s, i;

    for (s = 0; s < speakers; s++) {
        for (i = 0; i < REFIMPL_HOP; i++) {
            int64_t sum = head[s * REFIMPL_HOP + i];

            if (i < REFIMPL_TAIL) {
                sum += tail[s * REFIMPL_TAIL + i];
            }
            y[s * REFIMPL_HOP + i] = saturate64(sum, INT32_MIN, INT32_MAX);
        }
    }
}

/* F-11, from Q4.27 */
void to_pcm(const int32_t *x, uint32_t speakers, uint32_t samples, int16_t *pcm, int32_t *clipped)
{
    uint32_t s, i;

    for (s = 0; s < speakers; s++) {
        clipped[s] = 0;
        for (i = 0; i < samples; i++) {
            const int64_t v = shift_half_even(x[s * samples + i], 12);
            const int32_t y = saturate64(v, INT16_MIN, INT16_MAX);

            pcm[s * samples + i] = (int16_t)y;
            clipped[s] += y != v;
        }
    }
}
