/*
 * Device under test: runs one golden case with this port, see ../PROTOCOL.md.
 *
 *     dut CASE_FOLDER OUTPUT_FOLDER
 *
 * Reads inputs, states and constants, never an expected tensor, and writes every tensor that the case expects
 * as OUTPUT_FOLDER/NAME.bin, little-endian. Exit code 0: it ran; 1: an error; 2: an operator, format, size or
 * model that this port does not have. For a little-endian host.
 */
#include "dut.h"

#include <string.h>

int main(int argc, char **argv)
{
    const json_t *steps, *network;
    const char *arithmetic;

    if (argc != 3) {
        fail(1, "takes CASE_FOLDER OUTPUT_FOLDER", "arguments");
    }
    current_case.folder = argv[1];
    current_case.out = argv[2];
    current_case.root = json_read(join(argv[1], "/case.json"));
    arithmetic = json_string(current_case.root, "arithmetic");
    if (strcmp(arithmetic, "1") != 0) {
        fail(2, "another arithmetic version", arithmetic);
    }
    current_case.tensors = json_member(current_case.root, "tensors", JSON_OBJECT);
    steps = json_member(current_case.root, "steps", JSON_ARRAY);
    network = json_find(current_case.root, "network");
    if (network != 0 && network->type == JSON_OBJECT) {
        run_network(network);
    } else if (steps->count == 0) {
        fail(1, "a case without steps", json_string(current_case.root, "id"));
    } else if (strcmp(json_string(current_case.root, "level"), "numerics") == 0) {
        run_function(steps->first);
    } else {
        run_steps(steps);
    }
    return 0;
}
