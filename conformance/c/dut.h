/* The parts of the device under test; each runs current_case, whatever its kind. */
#ifndef REFIMPL_DUT_H
#define REFIMPL_DUT_H

#include "case_file.h"
#include "network.h"

/* Numerics: one function on arrays */
void run_function(const json_t *step);
/* Steps of operators, frame by frame */
void run_steps(const json_t *steps);
/* PCM to PCM, with the model that was linked in under the case's name */
void run_network(const json_t *network);

/* The linked models, then null; made by make_model.py */
extern const network_t *const models[];

/* The requantizer of a step's constant `rq`, for that many output channels (0: any number) */
requantizer_t read_requantizer(const json_t *step, size_t channels);
/* A table by its name in case.json; its data is null where there is none */
source_t shipped_table(const char *name, uint32_t *count);

#endif
