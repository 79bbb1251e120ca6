/*
 * refimpl for a device: TF-MLPNet speech separation, streaming, in the arithmetic of SPEC.md (version "1").
 *
 *     static stream_t stream;
 *     stream_reset(&stream, &model, emit, 0, 0);              model: from model.h, made by make_model.py
 *     stream_push(&stream, samples, 96);                      every 6 ms; calls emit
 *     stream_flush(&stream);                                  at the end of a recording
 *
 * C99, no dynamic memory, no mathematical library; float only in float32.h, and not at all with
 * REFIMPL_NO_FLOAT.
 */
#ifndef REFIMPL_DEVICE_H
#define REFIMPL_DEVICE_H

#define REFIMPL_ARITHMETIC "1"

#include "network.h"
#include "stream.h"

#endif
