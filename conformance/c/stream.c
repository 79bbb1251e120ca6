#include "stream.h"

#include <string.h>

void stream_reset(stream_t *stream, const network_t *network, emit_t emit, trace_t trace, void *context)
{
    stream->network = network;
    stream->emit = emit;
    stream->trace = trace;
    stream->context = context;
    stream->filled = REFIMPL_HOP;                           /* the 96 samples before the first are 0 */
    stream->owed = 0;
    network_reset(network);
    memset(tensor_frame(network->frame, 0), 0, tensor_bytes(network->frame));
}

/* Runs the full frame, emits up to 96 samples, keeps the 160 samples that the next frame sees again (P-2) */
static void run_frame(stream_t *stream)
{
    const network_t *network = stream->network;
    int16_t *samples = tensor_frame(network->frame, 0);
    const uint32_t count = stream->owed < REFIMPL_HOP ? stream->owed : REFIMPL_HOP;

    if (stream->trace != 0) {
        stream->trace(stream->context, network->frame);
    }
    network_run(network, stream->trace, stream->context);
    network_advance(network);
    stream->emit(stream->context, tensor_frame(network->pcm, 0), count);
    stream->owed -= count;
    stream->filled -= REFIMPL_HOP;
    memmove(samples, samples + REFIMPL_HOP, stream->filled * sizeof *samples);
}

void stream_push(stream_t *stream, const int16_t *samples, uint32_t count)
{
    int16_t *frame = tensor_frame(stream->network->frame, 0);
    uint32_t i;

    for (i = 0; i < count; i++) {
        frame[stream->filled++] = samples[i];
        stream->owed++;
        if (stream->filled == REFIMPL_FRAME) {
            run_frame(stream);
        }
    }
}

void stream_flush(stream_t *stream)
{
    int16_t *frame = tensor_frame(stream->network->frame, 0);

    while (stream->owed > 0) {
        memset(frame + stream->filled, 0, (REFIMPL_FRAME - stream->filled) * sizeof *frame);
        stream->filled = REFIMPL_FRAME;
        run_frame(stream);
    }
}
