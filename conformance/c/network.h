/*
 * The program of a network: tensors, steps in order, state between frames (section 12 of the specification).
 */
#ifndef REFIMPL_NETWORK_H
#define REFIMPL_NETWORK_H

#include <stdint.h>

#include "fourier.h"
#include "operators.h"

/*
 * A tensor's buffer holds `past` frames, oldest first, and then the current one. Only tensors of the state
 * (P-3) have past frames; the current frames of the others may share memory where they do not live at the
 * same time.
 */
typedef struct {
    const char *name;
    void *frames;
    format_t format;
    uint8_t past;
    int16_t start;                  /* P-3: every element before the first frame */
    uint16_t shape[3];              /* of one frame; 1 where there are fewer dimensions */
} tensor_t;

typedef enum {
    OPERATOR_STFT,
    OPERATOR_BLOCK_TO_BF16,
    OPERATOR_BLOCK_TO_CODE,
    OPERATOR_CONV_CAUSAL,
    OPERATOR_CONV_CAUSAL_BF16,
    OPERATOR_QUANTIZE_BF16,
    OPERATOR_DEQUANTIZE_BF16,
    OPERATOR_REQUANTIZE_CODES,
    OPERATOR_CONV_STRIDED,
    OPERATOR_CONV_STRIDED_TRANSPOSED,
    OPERATOR_FULLY_CONNECTED_FREQUENCY,
    OPERATOR_FULLY_CONNECTED_CHANNELS,
    OPERATOR_ADD_TWO_STAGE,
    OPERATOR_ADD_JOINT,
    OPERATOR_ADD_BF16,
    OPERATOR_MULTIPLY,
    OPERATOR_MULTIPLY_BF16,
    OPERATOR_LOOKUP,
    OPERATOR_CONV_TRANSPOSED_CAUSAL,
    OPERATOR_CONV_TRANSPOSED_CAUSAL_BF16,
    OPERATOR_BF16_TO_BLOCK,
    OPERATOR_CODE_TO_BLOCK,
    OPERATOR_ISTFT,
    OPERATOR_OVERLAP_ADD,
    OPERATOR_TO_PCM
} operator_t;

typedef struct {
    operator_t op;
    const tensor_t *input[2];
    uint8_t past[2];                /* the oldest frame that is read, counted back from the current one */
    const tensor_t *output[2];
    const void *constants;          /* the operator's structure */
} step_t;

typedef struct {
    const char *name;
    const tensor_t *tensors;
    const step_t *steps;
    uint16_t tensor_count, step_count;
    const tensor_t *frame;          /* int16 [256], written by the caller before each frame (P-6) */
    const tensor_t *pcm;            /* int16 [speakers, 96] */
    const tensor_t *clipped;        /* int32 [speakers] */
} network_t;

/* Called after a step, once for each tensor that it wrote */
typedef void (*trace_t)(void *context, const tensor_t *tensor);

uint32_t tensor_elements(const tensor_t *tensor);
uint32_t tensor_bytes(const tensor_t *tensor);
/* The frame `back` frames before the current one */
void *tensor_frame(const tensor_t *tensor, uint32_t back);

/* To the state before the first frame (P-3) */
void network_reset(const network_t *network);
/* One frame through all steps; `trace` may be null */
void network_run(const network_t *network, trace_t trace, void *context);
/* The current frame of every tensor of the state becomes the newest past one */
void network_advance(const network_t *network);

#endif
