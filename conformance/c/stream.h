/* Streaming: PCM of any chunk length in, frames out (P-2, P-5). */
#ifndef REFIMPL_STREAM_H
#define REFIMPL_STREAM_H

#include <stdint.h>

#include "network.h"

/* Receives `count` samples of each speaker: pcm[speaker * REFIMPL_HOP + i], i < count <= 96 */
typedef void (*emit_t)(void *context, const int16_t *pcm, uint32_t count);

/*
 * The samples that are not used up yet lie in the network's `frame` tensor. One stream per network: its state
 * is in the model's static buffers.
 */
typedef struct {
    const network_t *network;
    emit_t emit;
    trace_t trace;                  /* may be null */
    void *context;                  /* of emit and trace */
    uint32_t filled;                /* samples in the frame */
    uint32_t owed;                  /* samples received and not emitted; below 256 */
} stream_t;

/* Sets the state of P-3. Call it before the first sample, and again after stream_flush. */
void stream_reset(stream_t *stream, const network_t *network, emit_t emit, trace_t trace, void *context);
/*
 * Takes `count` samples and emits what they complete: 96 * max(0, floor((r - 64) / 96)) after r samples in
 * total
 */
void stream_push(stream_t *stream, const int16_t *samples, uint32_t count);
/* Emits the rest, up to the number of samples received */
void stream_flush(stream_t *stream);

#endif
