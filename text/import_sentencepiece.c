/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SentencePiece's model files (sentencepiece_model.proto), said as a tokenizer.json. Pieces, scores and the normalizer
 * mean what SentencePiece makes of them; around that, what transformers adds: control pieces are special tokens, the
 * beginning token comes first, and decoding gives bytes for byte pieces and takes the space in front away. One thread.
 */
#include "base/mem.h"
#include "base/utf8.h"
#include "base64.h"
#include "import.h"
#include "import_common.h"
#include "textlimits.h"
#include "wire.h"

enum piece_type { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };
enum { UNIGRAM = 1, BPE = 2 };

struct spm_piece {
    const char *text; /* inside the file */
    size_t len;
    float score;
    uint32_t rank; /* BPE: place in the order of scores; UINT32_MAX: takes part in no merge */
    uint8_t type;
};

struct spm_file {
    const char *path;
    struct spm_piece *pieces;
    size_t count, cap;
    uint32_t unk; /* UINT32_MAX: none */
    bool any_user;
    uint64_t model_type;
    int32_t bos_id, eos_id;
    bool byte_fallback, suffix;
    const char *map;
    size_t map_len;
    bool prefix, trim, escape;
};

static int32_t broken(const struct spm_file *f, const char *field, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, f->path, TN_NO_OFFSET, field,
                  "the file is no SentencePiece model, or it is damaged");
}

static int32_t read_piece(struct spm_file *f, struct wire w, tn_err *err)
{
    struct spm_piece p = {NULL, 0, 0, UINT32_MAX, NORMAL};
    struct wire_field x;
    bool good = true;

    while (wire_next(&w, &x)) {
        if (x.number == 1 && x.type == WIRE_BYTES) {
            p.text = x.data;
            p.len = x.len;
        } else if (x.number == 2) {
            good = good && wire_float(&x, &p.score);
        } else if (x.number == 3 && x.type == WIRE_VARINT) {
            good = good && x.value >= NORMAL && x.value <= BYTE;
            p.type = (uint8_t)x.value;
        }
    }
    if (w.broken || !good || p.len == 0 || !utf8_valid(p.text, p.len))
        return err_at(
            err, TN_E_FORMAT, f->path, TN_NO_OFFSET, "pieces",
            "piece %zu is damaged: it needs a text in UTF-8, a finite score, a known type",
            f->count);
    if (f->count >= LIMIT_VOCAB)
        return err_at(err, TN_E_LIMIT, f->path, TN_NO_OFFSET, "pieces", "more than %u pieces",
                      (unsigned)LIMIT_VOCAB);
    if (p.type == UNKNOWN && f->unk != UINT32_MAX)
        return err_at(err, TN_E_FORMAT, f->path, TN_NO_OFFSET, "pieces",
                      "pieces %u and %zu are both the unknown one", (unsigned)f->unk, f->count);
    if (p.type == UNKNOWN)
        f->unk = (uint32_t)f->count;
    f->any_user = f->any_user || p.type == USER_DEFINED;
    if (!mem_grow(&f->pieces, &f->cap, f->count + 1, sizeof *f->pieces))
        return err_nomem(err, "a vocabulary");
    f->pieces[f->count++] = p;
    return TN_OK;
}

static int32_t read_trainer(struct spm_file *f, struct wire w, tn_err *err)
{
    struct wire_field x;

    while (wire_next(&w, &x)) {
        if (x.type != WIRE_VARINT)
            continue;
        switch (x.number) {
        case 3: f->model_type = x.value; break;
        case 24: f->suffix = x.value != 0; break;
        case 35: f->byte_fallback = x.value != 0; break;
        case 41: f->bos_id = (int32_t)x.value; break;
        case 42: f->eos_id = (int32_t)x.value; break;
        default: break;
        }
    }
    return w.broken ? broken(f, "trainer_spec", err) : TN_OK;
}

static int32_t read_normalizer(struct spm_file *f, struct wire w, tn_err *err)
{
    struct wire_field x;

    while (wire_next(&w, &x)) {
        if (x.number == 2 && x.type == WIRE_BYTES) {
            f->map = x.data;
            f->map_len = x.len;
        } else if (x.type == WIRE_VARINT) {
            switch (x.number) {
            case 3: f->prefix = x.value != 0; break;
            case 4: f->trim = x.value != 0; break;
            case 5: f->escape = x.value != 0; break;
            default: break;
            }
        }
    }
    return w.broken ? broken(f, "normalizer_spec", err) : TN_OK;
}

static int32_t read_model(struct spm_file *f, const char *data, size_t len, tn_err *err)
{
    struct wire w = wire_of(data, len);
    struct wire_field x;
    int32_t rc = TN_OK;

    while (rc == TN_OK && wire_next(&w, &x)) {
        if (x.type != WIRE_BYTES)
            continue;
        if (x.number == 1)
            rc = read_piece(f, wire_of(x.data, x.len), err);
        else if (x.number == 2)
            rc = read_trainer(f, wire_of(x.data, x.len), err);
        else if (x.number == 3)
            rc = read_normalizer(f, wire_of(x.data, x.len), err);
    }
    if (rc == TN_OK && (w.broken || f->count == 0))
        rc = broken(f, "", err);
    return rc;
}

static int32_t check_model(const struct spm_file *f, tn_err *err)
{
    if (f->model_type != UNIGRAM && f->model_type != BPE) {
        err_at(err, TN_E_UNSUPPORTED, f->path, TN_NO_OFFSET, "trainer_spec.model_type",
               "the model is of type %llu, neither unigram nor BPE",
               (unsigned long long)f->model_type);
        return TN_E_UNSUPPORTED;
    }
    if (f->unk == UINT32_MAX)
        return err_at(err, TN_E_FORMAT, f->path, TN_NO_OFFSET, "pieces",
                      "there is no unknown piece");
    for (size_t i = 0; f->model_type == BPE && i < f->count; i++)
        if (f->pieces[i].type == UNUSED)
            return err_at(err, TN_E_UNSUPPORTED, f->path, TN_NO_OFFSET, "pieces",
                          "piece %zu is marked unused, which BPE models here must not have", i);
    return TN_OK;
}

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *a, const void *b)
{
    float x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;

    return x > y ? -1 : x < y;
}

/* Pieces merge in the order of their scores; equal scores are equal in rank, and then the left one is first. */
static int32_t rank_pieces(struct spm_file *f, tn_err *err)
{
    struct scored *order = mem_array(f->count, sizeof *order);
    size_t n = 0;
    uint32_t rank = 0;

    if (!order)
        return err_nomem(err, "a vocabulary");
    for (size_t i = 0; i < f->count; i++)
        if (f->pieces[i].type == NORMAL || f->pieces[i].type == USER_DEFINED)
            order[n++] = (struct scored){f->pieces[i].score, (uint32_t)i};
    if (n > 0)
        qsort(order, n, sizeof *order, by_score);
    for (size_t i = 0; i < n; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        f->pieces[order[i].id].rank = rank;
    }
    mem_free(order);
    return TN_OK;
}

/* User-defined pieces, which the pre-tokenizer cuts out. No other piece may be found whole: text that looks like a control
 * or byte piece is text. */
static void print_whole_words(const struct spm_file *f, struct strbuf *out)
{
    const char *comma = "";

    if (!f->any_user)
        return;
    strbuf_puts(out, ",\"whole_words\":[");
    for (size_t i = 0; i < f->count; i++) {
        if (f->pieces[i].type != USER_DEFINED)
            continue;
        strbuf_printf(out, "%s%zu", comma, i);
        comma = ",";
    }
    strbuf_putc(out, ']');
}

static void print_bpe(const struct spm_file *f, struct strbuf *out)
{
    const struct spm_piece *unk = &f->pieces[f->unk];

    strbuf_puts(out, "{\"type\":\"BPE\",\"fuse_unk\":true,\"unk_token\":");
    import_quote(out, unk->text, unk->len);
    strbuf_printf(out, ",\"byte_fallback\":%s,\"vocab\":{", f->byte_fallback ? "true" : "false");
    for (size_t i = 0; i < f->count; i++) {
        strbuf_puts(out, i ? ",\n" : "\n");
        import_quote(out, f->pieces[i].text, f->pieces[i].len);
        strbuf_printf(out, ":%zu", i);
    }
    strbuf_puts(out, "},\"merge_ranks\":[");
    for (size_t i = 0; i < f->count; i++) {
        strbuf_puts(out, i ? "," : "");
        if (f->pieces[i].rank == UINT32_MAX)
            strbuf_puts(out, "null");
        else
            strbuf_printf(out, "%u", (unsigned)f->pieces[i].rank);
    }
    strbuf_puts(out, "]");
    print_whole_words(f, out);
    strbuf_putc(out, '}');
}

static void print_unigram(const struct spm_file *f, struct strbuf *out)
{
    strbuf_printf(out, "{\"type\":\"Unigram\",\"unk_id\":%u,\"byte_fallback\":%s,\"vocab\":[",
                  (unsigned)f->unk, f->byte_fallback ? "true" : "false");
    for (size_t i = 0; i < f->count; i++) {
        strbuf_puts(out, i ? ",\n[" : "\n[");
        import_quote(out, f->pieces[i].text, f->pieces[i].len);
        strbuf_printf(out, ",%.9g]", (double)f->pieces[i].score);
    }
    strbuf_puts(out, "],\"piece_types\":[");
    for (size_t i = 0; i < f->count; i++)
        strbuf_printf(out, "%s%u", i ? "," : "", (unsigned)f->pieces[i].type);
    strbuf_puts(out, "]}");
}

static int32_t print_normalizer(const struct spm_file *f, const json_t *config, struct strbuf *out,
                                tn_err *err)
{
    bool first = true;

    strbuf_printf(out,
                  "{\"type\":\"SentencePiece\",\"add_dummy_prefix\":%s,\"prefix_always\":%s,"
                  "\"suffix\":%s,\"remove_extra_whitespaces\":%s,\"escape_whitespaces\":%s",
                  import_config_bool(config, "add_prefix_space", f->prefix) ? "true" : "false",
                  import_config_bool(config, "legacy", false) ? "true" : "false",
                  f->suffix ? "true" : "false", f->trim ? "true" : "false",
                  f->escape ? "true" : "false");
    if (f->map_len > 0) {
        char *text = mem_alloc(base64_size(f->map_len));
        if (!text)
            return err_nomem(err, "a character map");
        base64_encode(f->map, f->map_len, text);
        strbuf_puts(out, ",\"precompiled_charsmap\":\"");
        strbuf_append(out, text, base64_size(f->map_len));
        strbuf_putc(out, '"');
        mem_free(text);
    }
    strbuf_puts(out, ",\"kept\":[");
    for (size_t i = 0; i < f->count; i++) {
        if (f->pieces[i].type != USER_DEFINED)
            continue;
        strbuf_puts(out, first ? "" : ",");
        import_quote(out, f->pieces[i].text, f->pieces[i].len);
        first = false;
    }
    strbuf_puts(out, "]}");
    return TN_OK;
}

static int longer_first(const void *a, const void *b)
{
    size_t x = (*(const struct spm_piece *const *)a)->len,
           y = (*(const struct spm_piece *const *)b)->len;

    return x > y ? -1 : x < y;
}

static void put_escaped(struct strbuf *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strchr("\\^$.|?*+()[]{}-#&~", text[i]) && text[i] != '\0')
            strbuf_putc(out, '\\');
        strbuf_putc(out, text[i]);
    }
}

/* BPE: user-defined pieces stand alone and merge with nothing, the longest one at each place. */
static int32_t print_pre_tokenizer(const struct spm_file *f, struct strbuf *out, tn_err *err)
{
    const struct spm_piece **user;
    struct strbuf regex = STRBUF_INIT;
    size_t n = 0;

    if (f->model_type != BPE || !f->any_user) {
        strbuf_puts(out, "null");
        return TN_OK;
    }
    user = mem_array(f->count, sizeof *user);
    if (!user)
        return err_nomem(err, "a vocabulary");
    for (size_t i = 0; i < f->count; i++)
        if (f->pieces[i].type == USER_DEFINED)
            user[n++] = &f->pieces[i];
    qsort(user, n, sizeof *user, longer_first);
    for (size_t i = 0; i < n; i++) {
        strbuf_puts(&regex, i ? "|" : "");
        put_escaped(&regex, user[i]->text, user[i]->len);
    }
    strbuf_puts(out, "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"
                     "\"pattern\":{\"Regex\":");
    import_quote(out, strbuf_str(&regex), regex.len);
    strbuf_puts(out, "}}");
    out->failed = out->failed || regex.failed;
    strbuf_release(&regex);
    mem_free(user);
    return TN_OK;
}

static int32_t collect_tokens(const struct spm_file *f, const json_t *config, const char *file,
                              struct import_tokens *tokens, tn_err *err)
{
    int32_t rc = import_tokens_config(tokens, config, file, err);

    for (size_t i = 0; rc == TN_OK && i < f->count; i++)
        if (f->pieces[i].type == CONTROL || f->pieces[i].type == UNKNOWN)
            rc = import_tokens_add(tokens, f->pieces[i].text, f->pieces[i].len, (uint32_t)i, true,
                                   err);
    return rc;
}

/* The special token of that id, if the configuration wants it at the end of a text. */
static const char *end_token(const struct import_tokens *l, int32_t id, bool wanted)
{
    const struct import_token *t = wanted && id >= 0 ? import_tokens_find(l, (uint32_t)id) : NULL;

    return t && strlen(t->content) == t->len ? t->content : NULL;
}

static int32_t print_all(const struct spm_file *f, const json_t *config, const char *file,
                         struct strbuf *out, tn_err *err)
{
    struct import_tokens tokens = {NULL, 0, 0};
    const char *class = import_config_text(config, "tokenizer_class");
    bool t5 = class && strncmp(class, "T5", 2) == 0;
    int32_t rc = collect_tokens(f, config, file, &tokens, err);

    if (rc == TN_OK) {
        strbuf_puts(out, "{\"version\":\"1.0\",\"added_tokens\":");
        import_tokens_print(&tokens, out);
        strbuf_puts(out, ",\"normalizer\":");
        rc = print_normalizer(f, config, out, err);
    }
    if (rc == TN_OK) {
        strbuf_puts(out, ",\"pre_tokenizer\":");
        rc = print_pre_tokenizer(f, out, err);
    }
    if (rc == TN_OK) {
        strbuf_puts(out, ",\"post_processor\":");
        import_template(
            end_token(&tokens, f->bos_id,
                      import_config_bool(config, "add_bos_token", f->model_type == BPE)),
            (uint32_t)f->bos_id,
            end_token(&tokens, f->eos_id, import_config_bool(config, "add_eos_token", t5)),
            (uint32_t)f->eos_id, out);
        strbuf_puts(out, ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                         "\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
                         "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}");
        if (import_config_bool(config, "add_prefix_space", f->prefix))
            strbuf_puts(out, ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}");
        strbuf_puts(out, "]},\"model\":");
        if (f->model_type == BPE)
            print_bpe(f, out);
        else
            print_unigram(f, out);
        strbuf_puts(out, "}\n");
        rc = out->failed ? err_nomem(err, "a vocabulary") : TN_OK;
    }
    import_tokens_release(&tokens);
    return rc;
}

int32_t import_sentencepiece(const char *path, const char *data, size_t len, const char *config,
                             struct strbuf *out, tn_err *err)
{
    struct spm_file f = {.path = path,
                         .unk = UINT32_MAX,
                         .model_type = UNIGRAM,
                         .bos_id = 1,
                         .eos_id = 2,
                         .prefix = true,
                         .trim = true,
                         .escape = true};
    json_t *json = NULL;
    int32_t rc = read_model(&f, data, len, err);

    if (rc == TN_OK)
        rc = check_model(&f, err);
    if (rc == TN_OK && f.model_type == BPE)
        rc = rank_pieces(&f, err);
    if (rc == TN_OK)
        rc = import_config_read(config, &json, err);
    if (rc == TN_OK)
        rc = print_all(&f, json, config, out, err);
    json_decref(json);
    mem_free(f.pieces);
    return rc;
}
