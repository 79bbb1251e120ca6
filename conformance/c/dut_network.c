/* Cases of a whole network: PCM in any chunks to PCM, every tensor of every frame (P-4, P-5, M-10). */
#include <string.h>

#include "dut.h"
#include "stream.h"

typedef struct {
    const json_t *digests;          /* members are named by the tensors of the network */
    int16_t *pcm;                   /* [speakers, total] */
    uint32_t speakers, total;
    uint32_t frame;                 /* frames that were emitted */
    uint32_t emitted;               /* samples per speaker */
} session_t;

/* The model named like the case: of network/NAME/... */
static const network_t *find_model(const char *id)
{
    const char *start = strchr(id, '/');
    size_t length, i;

    if (start != 0) {
        start++;
        length = strcspn(start, "/");
        for (i = 0; models[i] != 0; i++) {
            if (strncmp(models[i]->name, start, length) == 0 && models[i]->name[length] == 0) {
                return models[i];
            }
        }
    }
    fail(2, "no model of this name is built in", id);
    return 0;
}

static void trace(void *context, const tensor_t *tensor)
{
    const session_t *session = context;

    if (json_find(session->digests, tensor->name) != 0 || json_find(current_case.tensors, tensor->name) != 0) {
        write_words(tensor->name, tensor_frame(tensor, 0), tensor_elements(tensor), format_size(tensor->format),
                    session->frame > 0);
    }
}

static void emit(void *context, const int16_t *pcm, uint32_t count)
{
    session_t *session = context;
    uint32_t s;

    for (s = 0; s < session->speakers; s++) {
        memcpy(session->pcm + s * session->total + session->emitted, pcm + s * REFIMPL_HOP, count * sizeof *pcm);
    }
    session->emitted += count;
    session->frame++;
}

void run_network(const json_t *network)
{
    static stream_t stream;
    static session_t session;
    const network_t *model = find_model(json_string(current_case.root, "id"));
    const json_t *chunks = json_find(network, "chunks");
    const json_t *chunk = chunks != 0 && chunks->type == JSON_ARRAY ? chunks->first : 0;
    const file_t file = load_file("pcm_in");
    int16_t *pcm = allocate(file.count, sizeof *pcm);
    int32_t *emitted = allocate(chunks != 0 ? chunks->count + 1 : 1, sizeof *emitted);
    uint32_t pushed = 0;
    uint32_t pushes = 0;
    uint32_t before;
    size_t i;

    for (i = 0; i < file.count; i++) {
        pcm[i] = (int16_t)element(&file, i);
    }
    session.digests = json_member(network, "crc32", JSON_OBJECT);
    session.speakers = model->pcm->shape[0];
    session.total = (uint32_t)file.count;
    session.pcm = allocate((size_t)session.speakers * session.total, sizeof *session.pcm);
    stream_reset(&stream, model, emit, trace, &session);
    for (; chunk != 0; chunk = chunk->next) {
        if (chunk->integer < 0 || chunk->integer > (int64_t)(session.total - pushed)) {
            fail(1, "the chunks are longer than the clip", "chunks");
        }
        before = session.emitted;
        stream_push(&stream, pcm + pushed, (uint32_t)chunk->integer);
        pushed += (uint32_t)chunk->integer;
        emitted[pushes++] = (int32_t)(session.emitted - before);
    }
    if (pushes == 0) {
        stream_push(&stream, pcm, session.total);
    }
    before = session.emitted;
    stream_flush(&stream);
    emitted[pushes++] = (int32_t)(session.emitted - before);
    for (i = 0; i < session.speakers; i++) {        /* what was pushed: all of the clip, but for a short list */
        write_words("pcm_out", session.pcm + i * session.total, session.emitted, sizeof *pcm, i > 0);
    }
    if (json_find(current_case.tensors, "emitted") != 0) {
        write_words("emitted", emitted, pushes, sizeof *emitted, 0);
    }
}
