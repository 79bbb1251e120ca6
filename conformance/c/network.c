#include "network.h"

#include <string.h>

uint32_t tensor_elements(const tensor_t *tensor)
{
    return (uint32_t)tensor->shape[0] * tensor->shape[1] * tensor->shape[2];
}

uint32_t tensor_bytes(const tensor_t *tensor)
{
    return tensor_elements(tensor) * format_size(tensor->format);
}

void *tensor_frame(const tensor_t *tensor, uint32_t back)
{
    return (uint8_t *)tensor->frames + (tensor->past - back) * tensor_bytes(tensor);
}

static source_t source(const step_t *step, uint32_t operand)
{
    source_t x;

    x.data = tensor_frame(step->input[operand], step->past[operand]);
    x.format = step->input[operand]->format;
    return x;
}

static target_t target(const step_t *step)
{
    target_t y;

    y.data = tensor_frame(step->output[0], 0);
    y.format = step->output[0]->format;
    return y;
}

/* M-3: one step of one frame. Shapes come from the tensors, everything else from the step's constants. */
static void run_step(const step_t *step)
{
    const uint16_t *in = step->input[0]->shape;
    const uint16_t *out = step->output[0]->shape;
    const uint32_t count = tensor_elements(step->output[0]);
    const void *constants = step->constants;
    const source_t a = source(step, 0);
    const target_t y = target(step);
    void *second_output = step->output[1] != 0 ? tensor_frame(step->output[1], 0) : 0;
    source_t b = a;

    if (step->input[1] != 0) {
        b = source(step, 1);
    }
    switch (step->op) {
    case OPERATOR_STFT:
        stft(a.data, constants, y.data, second_output);
        break;
    case OPERATOR_BLOCK_TO_BF16:
        block_to_bf16(a.data, b.data, count, y.data);
        break;
    case OPERATOR_BLOCK_TO_CODE:
        block_to_code(a.data, b.data, count, constants, y);
        break;
    case OPERATOR_CONV_CAUSAL:
        conv_causal(a, in[0], in[1], constants, y, out[1]);
        break;
    case OPERATOR_CONV_TRANSPOSED_CAUSAL:
        conv_transposed_causal(a, in[0], in[1], constants, y, out[1]);
        break;
    case OPERATOR_CONV_CAUSAL_BF16:
        conv_causal_bf16(a.data, in[0], in[1], constants, y.data, out[1]);
        break;
    case OPERATOR_CONV_TRANSPOSED_CAUSAL_BF16:
        conv_transposed_causal_bf16(a.data, in[0], in[1], constants, y.data, out[1]);
        break;
    case OPERATOR_CONV_STRIDED:
        conv_strided(a, in[1], constants, y, out[0], out[1]);
        break;
    case OPERATOR_CONV_STRIDED_TRANSPOSED:
        conv_strided_transposed(a, in[0], in[1], constants, y, out[0], out[1]);
        break;
    case OPERATOR_FULLY_CONNECTED_FREQUENCY:
        fully_connected_frequency(a, in[0], in[1], constants, y, out[0]);
        break;
    case OPERATOR_FULLY_CONNECTED_CHANNELS:
        fully_connected_channels(a, in[0], in[1], constants, y, out[1]);
        break;
    case OPERATOR_QUANTIZE_BF16:
        quantize_bf16(a.data, count, constants, y);
        break;
    case OPERATOR_DEQUANTIZE_BF16:
        dequantize_bf16(a, count, constants, y.data);
        break;
    case OPERATOR_REQUANTIZE_CODES:
        requantize_codes(a, count, constants, y);
        break;
    case OPERATOR_ADD_TWO_STAGE:
        add_two_stage(a.data, b.data, count, constants, y.data);
        break;
    case OPERATOR_ADD_JOINT:
        add_joint(a, b, count, constants, y);
        break;
    case OPERATOR_ADD_BF16:
        add_bf16(a.data, b.data, count, y.data);
        break;
    case OPERATOR_MULTIPLY:
        multiply(a, b, count, constants, y);
        break;
    case OPERATOR_MULTIPLY_BF16:
        multiply_bf16(a.data, b.data, count, y.data);
        break;
    case OPERATOR_LOOKUP:
        lookup(a, in[0], in[1], constants, y, out[1]);
        break;
    case OPERATOR_BF16_TO_BLOCK:
        bf16_to_block(a.data, in[0], in[1], constants, out[0], y.data, second_output);
        break;
    case OPERATOR_CODE_TO_BLOCK:
        code_to_block(a, in[0], in[1], constants, out[0], y.data, second_output);
        break;
    case OPERATOR_ISTFT:
        istft(a.data, b.data, in[0], constants, y.data, second_output);
        break;
    case OPERATOR_OVERLAP_ADD:
        overlap_add(a.data, b.data, in[0], y.data);
        break;
    case OPERATOR_TO_PCM:
        to_pcm(a.data, in[0], in[1], y.data, second_output);
        break;
    }
}

void network_reset(const network_t *network)
{
    uint32_t t, i;

    for (t = 0; t < network->tensor_count; t++) {
        const tensor_t *tensor = &network->tensors[t];
        target_t y;

        y.data = tensor->frames;
        y.format = tensor->format;
        for (i = 0; i < tensor->past * tensor_elements(tensor); i++) {
            store(y, i, tensor->start);
        }
    }
}

void network_run(const network_t *network, trace_t trace, void *context)
{
    uint32_t s, o;

    for (s = 0; s < network->step_count; s++) {
        const step_t *step = &network->steps[s];

        run_step(step);
        for (o = 0; trace != 0 && o < 2 && step->output[o] != 0; o++) {
            trace(context, step->output[o]);
        }
    }
}

void network_advance(const network_t *network)
{
    uint32_t t;

    for (t = 0; t < network->tensor_count; t++) {
        const tensor_t *tensor = &network->tensors[t];
        const uint32_t bytes = tensor_bytes(tensor);

        if (tensor->past > 0) {
            memmove(tensor->frames, (uint8_t *)tensor->frames + bytes, tensor->past * bytes);
        }
    }
}
