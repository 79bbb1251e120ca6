/*
 * Layers, convolutions, element by element: sections 5 to 9 of the specification, as far as they run on the
 * device.
 */
#include "operators.h"

int32_t load(source_t x, uint32_t index)
{
    switch (x.format) {
    case FORMAT_INT8:
        return ((const int8_t *)x.data)[index];
    case FORMAT_INT16:
        return ((const int16_t *)x.data)[index];
    case FORMAT_BF16:
        return ((const uint16_t *)x.data)[index];
    default:
        return ((const int32_t *)x.data)[index];
    }
}

void store(target_t y, uint32_t index, int32_t value)
{
    switch (y.format) {
    case FORMAT_INT8:
        ((int8_t *)y.data)[index] = (int8_t)value;
        break;
    case FORMAT_INT16:
        ((int16_t *)y.data)[index] = (int16_t)value;
        break;
    case FORMAT_BF16:
        ((uint16_t *)y.data)[index] = (uint16_t)value;
        break;
    default:
        ((int32_t *)y.data)[index] = value;
        break;
    }
}

/* ---- requantization ------------------------------------------------------------------------------------ */

/* G-2, G-3, Q-9. All values fit int32 (O-1). */
int32_t requantize(const requantizer_t *rq, uint32_t channel, int32_t acc)
{
    int32_t v;

    switch (rq->law) {
    case LAW_FOLDED:
        v = shift_floor(acc * rq->multiplier[channel] + rq->addend[channel], rq->shift[channel]);
        return saturate(v, rq->lowest, rq->highest) + rq->offset;
    case LAW_NORM_TWICE:
        v = norm(acc + rq->bias[channel], rq->pre_shift);
        v = norm(v * rq->multiplier[channel], rq->shift[channel] - rq->pre_shift);
        return saturate(v, rq->lowest, rq->highest) + rq->offset;
    case LAW_BF16:
        return bf16_from_f32(f32_multiply(f32_from_int32(acc + rq->bias[channel]),
                                          f32_from_bits(rq->scale[channel])));
    default:
        return acc + rq->bias[channel];
    }
}

/* ---- integer layers ------------------------------------------------------------------------------------ */

/* Accumulators that are held at once; the compiler keeps them in registers */
#define TILE 16

/*
 * The skeleton of section 7: acc[o] = sum_n x[n] * weight[n, o] from 0, then the layer's law; y at y_start +
 * o * y_step. Accumulator o takes the constants of channel first_channel + o.
 */
static void layer_row(const int16_t *x, uint32_t inputs, const int8_t *weight, const requantizer_t *rq,
                      uint32_t first_channel, target_t y, uint32_t y_start, uint32_t y_step, uint32_t outputs)
{
    uint32_t o, n, k;

    for (o = 0; o < outputs; o += TILE) {
        const uint32_t width = outputs - o < TILE ? outputs - o : TILE;
        const int8_t *row = weight + o;
        int32_t acc[TILE] = {0};

        if (width == TILE) {
            for (n = 0; n < inputs; n++, row += outputs) {
                for (k = 0; k < TILE; k++) {
                    acc[k] += x[n] * row[k];
                }
            }
        } else {
            for (n = 0; n < inputs; n++, row += outputs) {
                for (k = 0; k < width; k++) {
                    acc[k] += x[n] * row[k];
                }
            }
        }
        for (k = 0; k < width; k++) {
            store(y, y_start + (o + k) * y_step, requantize(rq, first_channel + o + k, acc[k]));
        }
    }
}

static void gather(source_t x, uint32_t start, uint32_t step, int16_t *row, uint32_t count)
{
    uint32_t n;

    for (n = 0; n < count; n++) {
        row[n] = (int16_t)load(x, start + n * step);
    }
}

static void fill(int16_t *row, int16_t value, uint32_t count)
{
    uint32_t n;

    for (n = 0; n < count; n++) {
        row[n] = value;
    }
}

/* L-1: acc[g, c] = sum_f W[g, f] * x[f, c], the same weights for every channel; law of channel g */
void fully_connected_frequency(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                               uint32_t outputs)
{
    int16_t column[REFIMPL_MAX_INPUTS];
    uint32_t c;

    for (c = 0; c < channels; c++) {
        gather(x, c, channels, column, bins);
        layer_row(column, bins, layer->weight, &layer->rq, 0, y, c, channels, outputs);
    }
}

/* L-2: acc[f, d] = sum_c W[d, c] * x[f, c], the same weights for every bin; law of channel d */
void fully_connected_channels(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                              uint32_t outputs)
{
    int16_t row[REFIMPL_MAX_INPUTS];
    uint32_t f;

    for (f = 0; f < bins; f++) {
        gather(x, f * channels, 1, row, channels);
        layer_row(row, channels, layer->weight, &layer->rq, 0, y, f * outputs, 1, outputs);
    }
}

/*
 * Where tap (k, j) of the causal 3x3 pair reads for bin f; x holds the frames t - 2, t - 1, t in this order.
 * C-1: frame k, bin f + j - below. C-2: frame 2 - k, bin f - j + below. Returns 0 where the bin is outside.
 */
static int tap_position(int transposed, uint32_t f, uint32_t k, uint32_t j, uint32_t below, uint32_t bins,
                        uint32_t *frame, uint32_t *bin)
{
    const int32_t at = transposed ? (int32_t)(f + below) - (int32_t)j : (int32_t)(f + j) - (int32_t)below;

    *frame = transposed ? 2 - k : k;
    *bin = (uint32_t)at;
    return at >= 0 && at < (int32_t)bins;
}

static void conv3x3(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, int transposed,
                    target_t y, uint32_t outputs)
{
    int16_t taps[REFIMPL_MAX_INPUTS];
    uint32_t f, k, j, frame, bin;

    for (f = 0; f < bins; f++) {
        for (k = 0; k < 3; k++) {
            for (j = 0; j < 3; j++) {
                int16_t *tap = taps + (k * 3 + j) * channels;

                if (tap_position(transposed, f, k, j, layer->below, bins, &frame, &bin)) {
                    gather(x, (frame * bins + bin) * channels, 1, tap, channels);
                } else {
                    fill(tap, layer->padding, channels);
                }
            }
        }
        layer_row(taps, 9 * channels, layer->weight, &layer->rq, 0, y, f * outputs, 1, outputs);
    }
}

/* C-1; weight [3, 3, channels, outputs], tap k = 2 is the current frame */
void conv_causal(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                 uint32_t outputs)
{
    conv3x3(x, bins, channels, layer, 0, y, outputs);
}

/* C-2; weight [3, 3, channels, outputs], tap k = 0 is the current frame */
void conv_transposed_causal(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                            uint32_t outputs)
{
    conv3x3(x, bins, channels, layer, 1, y, outputs);
}

/* C-7; weight [stride, channels, outputs]. Bins from stride * out_bins on are not read. */
void conv_strided(source_t x, uint32_t channels, const layer_t *layer, target_t y, uint32_t out_bins,
                  uint32_t outputs)
{
    int16_t taps[REFIMPL_MAX_INPUTS];
    const uint32_t inputs = layer->stride * channels;
    uint32_t g;

    for (g = 0; g < out_bins; g++) {
        gather(x, g * inputs, 1, taps, inputs);
        layer_row(taps, inputs, layer->weight, &layer->rq, 0, y, g * outputs, 1, outputs);
    }
}

/* C-8; weight [stride, channels, outputs], constants of the law at index j * outputs + o */
void conv_strided_transposed(source_t x, uint32_t bins, uint32_t channels, const layer_t *layer, target_t y,
                             uint32_t out_bins, uint32_t outputs)
{
    int16_t row[REFIMPL_MAX_INPUTS];
    uint32_t f;

    for (f = 0; f < out_bins; f++) {
        const uint32_t g = f / layer->stride;
        const uint32_t j = f % layer->stride;

        if (g < bins) {
            gather(x, g * channels, 1, row, channels);
        } else {
            fill(row, layer->padding, channels);            /* output padding */
        }
        layer_row(row, channels, layer->weight + j * channels * outputs, &layer->rq, j * outputs, y,
                  f * outputs, 1, outputs);
    }
}

/* ---- convolutions in BF16 ------------------------------------------------------------------------------ */

/*
 * C-3 and C-4 in FP32 on BF16 values: a = b[o], then k, j, i ascending a = fp32(a + fp32(x * W)); padding is
 * +0
 */
static void conv3x3_bf16(const bf16_t *x, uint32_t bins, uint32_t channels, const layer_bf16_t *layer,
                         int transposed, bf16_t *y, uint32_t outputs)
{
    f32_t acc[REFIMPL_MAX_OUTPUTS];
    uint32_t f, k, j, i, o, frame, bin;

    for (f = 0; f < bins; f++) {
        const bf16_t *weight = layer->weight;

        for (o = 0; o < outputs; o++) {
            acc[o] = f32_from_bf16(layer->bias[o]);
        }
        for (k = 0; k < 3; k++) {
            for (j = 0; j < 3; j++) {
                const int inside = tap_position(transposed, f, k, j, layer->below, bins, &frame, &bin);

                for (i = 0; i < channels; i++, weight += outputs) {
                    const f32_t value = f32_from_bf16(inside ? x[(frame * bins + bin) * channels + i] : 0);

                    for (o = 0; o < outputs; o++) {
                        acc[o] = f32_add(acc[o], f32_multiply(value, f32_from_bf16(weight[o])));
                    }
                }
            }
        }
        for (o = 0; o < outputs; o++) {
            y[f * outputs + o] = bf16_from_f32(acc[o]);
        }
    }
}

/* C-5 */
void conv_causal_bf16(const bf16_t *x, uint32_t bins, uint32_t channels, const layer_bf16_t *layer, bf16_t *y,
                      uint32_t outputs)
{
    conv3x3_bf16(x, bins, channels, layer, 0, y, outputs);
}

/* C-6 */
void conv_transposed_causal_bf16(const bf16_t *x, uint32_t bins, uint32_t channels, const layer_bf16_t *layer,
                                 bf16_t *y, uint32_t outputs)
{
    conv3x3_bf16(x, bins, channels, layer, 1, y, outputs);
}

/* ---- element by element -------------------------------------------------------------------------------- */

/* E-1, on unsigned codes */
void add_two_stage(const int8_t *a, const int8_t *b, uint32_t count, const add_two_stage_t *constants,
                   int8_t *y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        int32_t v = norm((a[i] + 128) * constants->ma, constants->na);

        v = norm((v + (b[i] + 128)) * constants->mo, constants->no) + constants->add_bias;
        y[i] = (int8_t)(saturate(v, 0, 255) - 128);
    }
}

/* E-2 */
void add_joint(source_t a, source_t b, uint32_t count, const add_joint_t *constants, target_t y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        const int32_t first = (load(a, i) - constants->za) * constants->ma;
        const int32_t second = (load(b, i) - constants->zb) * constants->mb;
        const int32_t v = norm(first + second, constants->n) + constants->zero_point;

        store(y, i, saturate(v, constants->lowest, constants->highest));
    }
}

/* E-3 */
void multiply(source_t a, source_t b, uint32_t count, const multiply_t *constants, target_t y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        const int32_t product = (load(a, i) - constants->za) * (load(b, i) - constants->zb) * constants->m;
        const int32_t v = norm(product, constants->n) + constants->zero_point;

        store(y, i, saturate(v, constants->lowest, constants->highest));
    }
}

/* */
void requantize_codes(source_t x, uint32_t count, const requantize_codes_t *constants, target_t y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        const int32_t product = (load(x, i) - constants->in_zero) * constants->m;
        const int32_t v = norm(product, constants->n) + constants->zero_point;

        store(y, i, saturate(v, constants->lowest, constants->highest));
    }
}

/* Q-4 on the decoded pattern */
void quantize_bf16(const bf16_t *x, uint32_t count, const quantize_bf16_t *constants, target_t y)
{
    const f32_t inverse_scale = f32_from_bits(constants->inverse_scale);
    const int32_t lowest = constants->lowest - constants->zero_point;
    const int32_t highest = constants->highest - constants->zero_point;
    uint32_t i;

    for (i = 0; i < count; i++) {
        const uint32_t scaled = f32_bits(f32_multiply(f32_from_bf16(x[i]), inverse_scale));

        store(y, i, round_half_even_f32(scaled, lowest, highest) + constants->zero_point);
    }
}

/* */
void dequantize_bf16(source_t x, uint32_t count, const dequantize_bf16_t *constants, bf16_t *y)
{
    const f32_t scale = f32_from_bits(constants->scale);
    uint32_t i;

    for (i = 0; i < count; i++) {
        y[i] = bf16_from_f32(f32_multiply(f32_from_int32(load(x, i) - constants->zero_point), scale));
    }
}

/* E-5 */
void add_bf16(const bf16_t *a, const bf16_t *b, uint32_t count, bf16_t *y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        y[i] = bf16_add(a[i], b[i]);
    }
}

/* E-6 */
void multiply_bf16(const bf16_t *a, const bf16_t *b, uint32_t count, bf16_t *y)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        y[i] = bf16_multiply(a[i], b[i]);
    }
}

/* E-4: y[f, c] = table[x[f, start + c] - first] */
void lookup(source_t x, uint32_t bins, uint32_t channels, const lookup_t *constants, target_t y,
            uint32_t outputs)
{
    uint32_t f, c;

    for (f = 0; f < bins; f++) {
        for (c = 0; c < outputs; c++) {
            const int32_t code = load(x, f * channels + constants->start + c);

            store(y, f * outputs + c, load(constants->table, (uint32_t)(code - constants->first)));
        }
    }
}
