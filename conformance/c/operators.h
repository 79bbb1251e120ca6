/*
 * The operators of one frame, named as the program's steps name them. All tensors are dense, the last index
 * fastest.
 *
 * Weights are stored input-major, [taps..., inputs, outputs], so that every layer is the same loop: for each
 * input, add input * weight to all accumulators. Container layouts (rule M-2) are transposed into this one
 * when a model is made.
 */
#ifndef REFIMPL_OPERATORS_H
#define REFIMPL_OPERATORS_H

#include <stdint.h>

#include "bf16.h"

/* Largest layer that the operators accept: products per accumulator, outputs per bin */
#ifndef REFIMPL_MAX_INPUTS
#define REFIMPL_MAX_INPUTS 4128
#endif
#ifndef REFIMPL_MAX_OUTPUTS
#define REFIMPL_MAX_OUTPUTS 512
#endif

typedef enum { FORMAT_INT8, FORMAT_INT16, FORMAT_INT32, FORMAT_BF16 } format_t;

/* A tensor of one frame whose format is known only at run time: read or written */
typedef struct {
    const void *data;
    format_t format;
} source_t;

typedef struct {
    void *data;
    format_t format;
} target_t;

static inline uint32_t format_size(format_t format)
{
    return format == FORMAT_INT8 ? 1 : format == FORMAT_INT32 ? 4 : 2;
}

/* One element; BF16 is its pattern, unsigned */
int32_t load(source_t x, uint32_t index);
void store(target_t y, uint32_t index, int32_t value);

/*
 * From an int32 accumulator to the output format (G-5): FOLDED G-2, NORM_TWICE G-3, BF16 Q-9, RAW the bare
 * sum. Codes are saturate(value, lowest, highest) + offset. Arrays have one element per output channel.
 */
typedef enum { LAW_FOLDED, LAW_NORM_TWICE, LAW_BF16, LAW_RAW } law_t;

typedef struct {
    law_t law;
    uint8_t pre_shift;              /* NORM_TWICE: p */
    int32_t lowest, highest, offset;
    const int32_t *bias;            /* NORM_TWICE, BF16, RAW: total of Q-3 */
    const uint8_t *multiplier;      /* FOLDED, NORM_TWICE: M */
    const int32_t *addend;          /* FOLDED: B = total * M + floor(2^n / 2) */
    const uint8_t *shift;           /* FOLDED, NORM_TWICE: n */
    const uint32_t *scale;          /* BF16: FP32 patterns */
} requantizer_t;

int32_t requantize(const requantizer_t *rq, uint32_t channel, int32_t acc);

/* Layers with integer weights: L-1, L-2, C-1, C-2, C-7, C-8 */
typedef struct {
    const int8_t *weight;
    requantizer_t rq;
    int16_t padding;                /* C-1, C-2, C-8: the code that stands outside the tensor */
    uint8_t below;                  /* C-1, C-2 */
    uint8_t stride;                 /* C-7, C-8: a of M-1, also the number of taps */
} layer_t;

/* Convolutions in BF16: C-5, C-6 */
typedef struct {
    const bf16_t *weight;
    const bf16_t *bias;
    uint8_t below;
} layer_bf16_t;

/* x [bins, channels] -> y [outputs, channels] */
void fully_connected_frequency(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                               uint32_t outputs);
/* x [bins, channels] -> y [bins, outputs] */
void fully_connected_channels(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                              uint32_t outputs);
/* x [3 frames, oldest first, bins, channels] -> y [bins, outputs] */
void conv_causal(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                 uint32_t outputs);
void conv_transposed_causal(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                            uint32_t outputs);
void conv_causal_bf16(const bf16_t *x, uint32_t bins, uint32_t channels, const layer_bf16_t *layer, bf16_t *y,
                      uint32_t outputs);
void conv_transposed_causal_bf16(const bf16_t *x, uint32_t bins, uint32_t channels, const layer_bf16_t *layer,
                                 bf16_t *y, uint32_t outputs);
/* x [bins, channels] -> y [out_bins, outputs], out_bins = floor(bins / stride) */
void conv_strided(source_t x, uint32_t channels, const layer_t *layer, target_t y, uint32_t out_bins,
                  uint32_t outputs);
/* x [bins, channels] -> y [out_bins, outputs], bins = floor(out_bins / stride) */
void conv_strided_transposed(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                             uint32_t out_bins, uint32_t outputs);

/* E-1; the operands are in the order of the lowered step: a is the one with the larger scale */
typedef struct {
    int32_t ma, na, mo, no, add_bias;
} add_two_stage_t;

/* E-2 */
typedef struct {
    int32_t za, zb, ma, mb, n, zero_point, lowest, highest;
} add_joint_t;

/* E-3 */
typedef struct {
    int32_t za, zb, m, n, zero_point, lowest, highest;
} multiply_t;

/* */
typedef struct {
    int32_t in_zero, m, n, zero_point, lowest, highest;
} requantize_codes_t;

/* */
typedef struct {
    uint32_t inverse_scale;         /* FP32 pattern */
    int32_t zero_point, lowest, highest;
} quantize_bf16_t;

/* */
typedef struct {
    uint32_t scale;                 /* FP32 pattern */
    int32_t zero_point;
} dequantize_bf16_t;

/* E-4 */
typedef struct {
    source_t table;
    int32_t first;
    uint32_t start;
} lookup_t;

void add_two_stage(const int8_t *a, const int8_t *b, uint32_t count, const add_two_stage_t *constants,
                   int8_t *y);
void add_joint(source_t a, source_t b, uint32_t count, const add_joint_t *constants, target_t y);
void multiply(source_t a, source_t b, uint32_t count, const multiply_t *constants, target_t y);
void requantize_codes(source_t x, uint32_t count, const requantize_codes_t *constants, target_t y);
void quantize_bf16(const bf16_t *x, uint32_t count, const quantize_bf16_t *constants, target_t y);
void dequantize_bf16(source_t x, uint32_t count, const dequantize_bf16_t *constants, bf16_t *y);
void add_bf16(const bf16_t *a, const bf16_t *b, uint32_t count, bf16_t *y);
void multiply_bf16(const bf16_t *a, const bf16_t *b, uint32_t count, bf16_t *y);
/* x [bins, channels] -> y [bins, outputs] */
void lookup(source_t x, uint32_t bins, uint32_t channels, const lookup_t *constants, target_t y,
            uint32_t outputs);

#endif
