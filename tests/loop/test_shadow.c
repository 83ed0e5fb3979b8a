/* SPDX-License-Identifier: Apache-2.0 */
/* The step loop on a device that does not compute in host memory (shadow.h): whatever is pipelined, captured, padded or
 * fails there, requests get the tokens that the reference set gives them on the host, and everything is given back. */
#include <math.h>
#include <sys/stat.h>

#include "api/engines.h"
#include "api/runtime.h"
#include "api/tools.h"
#include "base/file.h"
#include "check_util.h"
#include "loop/jobs.h"
#include "tenon.h"

static char dir[64], engine[128];

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    build_dummy_engine(dir, "float32");
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

/* One whose vocabulary can be shared out. */
static void setup_ranks(void)
{
    temp_dir(dir, sizeof dir);
    build_engine_of(SOURCE_DIR "/tests/models/llama-gqa", dir, "float32");
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

/* -- Running requests ------------------------------------------------------------------------------- */

#define MAX_SETTINGS 12

/* On the shadow device, or on the host with the reference set; then `more`, up to a NULL key. */
static int32_t try_on(bool shadow, const tn_kv *more, tn_runtime **rt, tn_err *err)
{
    tn_kv s[MAX_SETTINGS] = {{"plugins.path", shadow ? SHADOW_PATHS : PLUGIN_DIR},
                             {"device.kind", shadow ? "shadow" : "cpu"},
                             {"kernels.sets", shadow ? "shadow" : "reference"},
                             {"kernels.tune", "false"}}; /* takes long with the reference */
    tn_open_options o = TN_OPEN_OPTIONS_INIT;

    o.engine = engine;
    o.settings = s;
    o.n_settings = 4;
    for (; more && more->key; more++)
        s[o.n_settings++] = *more;
    return tn_open(&o, rt, err);
}

static tn_runtime *open_on(bool shadow, const tn_kv *more)
{
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;

    ck_assert_ok(try_on(shadow, more, &rt, &err), &err);
    return rt;
}

static const struct job *expected(void)
{
    static struct job jobs[JOBS];
    tn_runtime *rt = open_on(false, NULL);

    run_jobs(rt, jobs);
    tn_close(rt);
    return jobs;
}

/* -- Tokens ------------------------------------------------------------------------------------------ */

static const tn_kv ways[][5] = {
    {{"plugin.shadow.expect", "graphs overlap"}, {NULL, NULL}},
    {{"plugin.shadow.expect", "overlap"}, {"kernels.graphs", "false"}, {NULL, NULL}},
    {{"plugin.shadow.feeds", "true"}, {"plugin.shadow.expect", "graphs overlap"}, {NULL, NULL}},
    {{"plugin.shadow.feeds", "true"},
     {"plugin.shadow.expect", "overlap"},
     {"kernels.graphs", "false"},
     {NULL, NULL}},
    {{"scheduler.max_batch_size", "1"}, {NULL, NULL}},
    {{"plugin.shadow.layers", "true"}, /* steps of one and two rows take layers whole */
     {"plugin.shadow.expect", "graphs layers"},
     {"scheduler.max_batch_size", "3"}, /* the last bucket is no power of two */
     {NULL, NULL}},
    {{"scheduler.max_batch_size", "40"}, {"scheduler.max_num_tokens", "48"}, {NULL, NULL}},
    {{"scheduler.max_batch_size", "16"},
     {"scheduler.policy", "max_utilization"},
     {"scheduler.max_seq_len", "96"},
     {"kv.max_bytes", "655360"},
     {NULL, NULL}},
};

START_TEST(tokens_are_those_of_the_host)
{
    static struct job jobs[JOBS];
    tn_runtime *rt = open_on(true, ways[_i]);

    run_jobs(rt, jobs);
    tn_close(rt);
    compare(jobs, expected());
}
END_TEST

/* -- Measuring ---------------------------------------------------------------------------------------- */

/* Times are kept beside the engine and used when it is opened; whatever is chosen then, tokens stay. */
START_TEST(measuring_changes_no_token)
{
    static struct job jobs[JOBS];
    const tn_kv s[] = {{"plugins.path", SHADOW_PATHS},
                       {"device.kind", "shadow"},
                       {"kernels.sets", "shadow"},
                       {"scheduler.max_batch_size", "8"},
                       {"scheduler.max_num_tokens", "16"}};
    const struct tool_conf conf = {NULL, s, 5};
    tn_runtime *rt;
    json_t *r = NULL;
    tn_err err = TN_ERR_INIT;
    char path[200];

    ck_assert_ok(tool_tune(&conf, engine, true, NULL, NULL, &r, &err), &err);
    ck_assert_int_gt(json_integer_value(json_object_get(r, "times")), 20);
    json_decref(r);
    snprintf(path, sizeof path, "%s/tuning.json", engine);
    ck_assert(path_is_file(path));
    rt = open_on(true, NULL);
    run_jobs(rt, jobs);
    tn_close(rt);
    ck_assert_int_eq(unlink(path), 0);
    compare(jobs, expected());
}
END_TEST

/* Where times are kept; those that there are go. */
static void forget_times(char path[200])
{
    snprintf(path, 200, "%s/tuning.json", engine);
    unlink(path);
}

/* Number of the file at `path`, which changes when it is written again; 0 if there is none. */
static ino_t file_number(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_ino : 0;
}

/* Small steps, and a device that says that it takes long, as the reference does at more rows. */
static const tn_kv tuned[] = {{"kernels.tune", "true"},
                              {"scheduler.max_num_tokens", "8"},
                              {"scheduler.max_batch_size", "4"},
                              {"plugin.shadow.library", "lib 9.1"},
                              {"plugin.shadow.layers", "true"},
                              {"plugin.shadow.few", "true"},
                              {NULL, NULL}};

/* Whether the times at `path` are kept for that version of the library that the set calls. */
static bool kept_for(const char *path, const char *library)
{
    json_t *root = json_load_file(path, 0, NULL);
    const char *key = json_string_value(json_object_get(root, "key"));
    bool kept = key && strstr(key, library);

    json_decref(root);
    return kept;
}

/* The first load measures; later ones find the times and leave the file alone, until other kernels run. */
START_TEST(first_load_measures_and_keeps_the_times)
{
    char path[200];
    ino_t made;

    forget_times(path);
    tn_close(open_on(true, NULL));
    ck_assert(!path_exists(path));
    tn_close(open_on(true, tuned));
    made = file_number(path);
    ck_assert(made != 0);
    ck_assert(kept_for(path, "(lib 9.1)"));
    tn_close(open_on(true, tuned));
    ck_assert(file_number(path) == made);
}
END_TEST

/* A place that cannot be written costs the times, not the run. */
START_TEST(times_that_cannot_be_kept_stop_nothing)
{
    static struct job jobs[JOBS];
    char path[200];
    tn_runtime *rt;

    forget_times(path);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    rt = open_on(true, tuned);
    run_jobs(rt, jobs);
    tn_close(rt);
    ck_assert_int_eq(rmdir(path), 0);
    compare(jobs, expected());
}
END_TEST

/* The most rows at which a variant was measured for any op. */
static json_int_t rows_measured(const char *path, const char *variant)
{
    json_t *root = json_load_file(path, 0, NULL), *points;
    json_int_t most = 0;
    const char *name;

    json_object_foreach(json_object_get(root, "times"), name, points)
    {
        json_t *last = json_array_get(points, json_array_size(points) - 1);
        json_int_t rows = json_integer_value(json_array_get(last, 0));
        if (strncmp(name, variant, strlen(variant)) == 0 && rows > most)
            most = rows;
    }
    json_decref(root);
    return most;
}

/* Else nobody would be measured where only the slower one serves, and estimates would decide there. */
START_TEST(who_is_fast_for_few_rows_puts_nobody_out_who_serves_all)
{
    char path[200];

    forget_times(path);
    tn_close(open_on(true, tuned));
    ck_assert_int_eq(rows_measured(path, "shadow/linear.shadow.few "), 2);
    ck_assert_int_gt(rows_measured(path, "shadow/linear.shadow "), 8);
}
END_TEST

/* Steps may be as small now as what a variant serves; larger ones are not its business for that. */
START_TEST(nobody_is_measured_beyond_what_he_serves)
{
    tn_kv small[sizeof tuned / sizeof *tuned];
    char path[200];

    memcpy(small, tuned, sizeof tuned);
    small[1].value = small[2].value = "2";
    small[3] = (tn_kv){"kv.block_tokens", "2"}; /* a step takes a page at least */
    forget_times(path);
    tn_close(open_on(true, small));
    ck_assert_int_eq(rows_measured(path, "shadow/linear.shadow.few "), 2);
    ck_assert_int_eq(rows_measured(path, "shadow/decoder_layer.shadow "), 2);
    ck_assert_int_gt(rows_measured(path, "shadow/linear.shadow "), 8);
}
END_TEST

/* A host computes as it did when nothing was measured: its first load takes no longer. */
START_TEST(host_is_not_measured_at_first_load)
{
    char path[200];

    forget_times(path);
    tn_close(open_on(false, tuned));
    ck_assert(!path_exists(path));
}
END_TEST

/* -- Memory -------------------------------------------------------------------------------------------- */

static uint64_t foretold(const json_t *account, const struct ledger_line *line)
{
    uint64_t sum = 0;
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(account, "bytes"), i, v)
    {
        const char *owner = json_string_value(json_object_get(v, "owner"));
        const char *place = json_string_value(json_object_get(v, "place"));
        if (strcmp(owner, line->owner) == 0 && strcmp(place, line->place) == 0)
            sum += (uint64_t)json_integer_value(json_object_get(v, "bytes"));
    }
    return sum;
}

/* What is foretold without allocating is what the ledger then says, to the byte. */
START_TEST(memory_is_foretold_to_the_byte)
{
    static const char *const owners[] = {"weights", "activations", "workspace", "kv cache",
                                         "step arrays"};
    bool shadow = _i != 0;
    const tn_kv s[] = {{"plugins.path", shadow ? SHADOW_PATHS : PLUGIN_DIR},
                       {"device.kind", shadow ? "shadow" : "cpu"},
                       {"kernels.sets", shadow ? "shadow" : "reference"},
                       {"kv.max_bytes", "1000000"},
                       {"plugin.shadow.layers", _i == 2 ? "true" : "false"}};
    const struct tool_conf conf = {NULL, s, shadow ? 5 : 4};
    struct ledger_line lines[64];
    json_t *account = NULL;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt;
    uint32_t n, seen = 0;

    ck_assert_ok(tool_memory(&conf, engine, &account, &err), &err);
    rt = open_on(shadow,
                 (const tn_kv[]){s[3], {shadow ? s[4].key : NULL, s[4].value}, {NULL, NULL}});
    n = ledger_list(rt->ledger, lines, 64);
    for (uint32_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof owners / sizeof *owners; k++) {
            if (strcmp(lines[i].owner, owners[k]) != 0)
                continue;
            ck_assert_msg(foretold(account, &lines[i]) == lines[i].bytes,
                          "%s on %s: %llu, not %llu", lines[i].owner, lines[i].place,
                          (unsigned long long)lines[i].bytes,
                          (unsigned long long)foretold(account, &lines[i]));
            seen += lines[i].bytes > 0;
        }
    ck_assert_uint_ge(seen, 4);
    tn_close(rt);
    json_decref(account);
}
END_TEST

/* -- Logits ------------------------------------------------------------------------------------------- */

struct seen {
    uint32_t rows;
    float logits[100 * 512];
};

static void on_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct seen *s = arg;

    memcpy(s->logits + (size_t)first * vocab, logits, (size_t)n * vocab * sizeof *logits);
    s->rows += n;
}

static void ask_logits(bool shadow, struct seen *seen)
{
    static struct job other;
    tn_runtime *rt = open_on(shadow, (const tn_kv[]){{"scheduler.max_num_tokens", "32"},
                                                     {"scheduler.max_batch_size", "4"},
                                                     {NULL, NULL}});
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_request *req = NULL, *mate = NULL;
    tn_err err = TN_ERR_INIT;
    tn_event ev = TN_EVENT_INIT;
    static int32_t ids[100];

    for (int i = 0; i < 100; i++)
        ids[i] = (i * 37) % 199;
    p.prompt = ids;
    p.n_prompt = 100;
    p.max_new_tokens = 0;
    p.on_logits = on_logits;
    p.arg = seen;
    make_job(&other, 3);
    ck_assert_ok(tn_submit(rt, &other.params, &mate, &err), &err);
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
    ck_assert_uint_eq(ev.finish, TN_FINISH_LENGTH);
    tn_release(req);
    collect(mate, &other);
    tn_close(rt);
}

START_TEST(logits_are_those_of_the_host)
{
    static struct seen got, want;

    ask_logits(true, &got);
    ask_logits(false, &want);
    ck_assert_uint_eq(got.rows, 100);
    ck_assert_mem_eq(got.logits, want.logits, sizeof want.logits);
}
END_TEST

/* -- Ends ---------------------------------------------------------------------------------------------- */

START_TEST(requests_may_go_at_any_time)
{
    tn_runtime *rt = open_on(true, NULL);
    static struct job jobs[JOBS];
    tn_request *reqs[JOBS];
    tn_err err = TN_ERR_INIT;
    tn_runtime_stats stats = {.h = TN_HDR(tn_runtime_stats)};

    for (uint64_t i = 0; i < JOBS; i++) {
        make_job(&jobs[i], i);
        ck_assert_ok(tn_submit(rt, &jobs[i].params, &reqs[i], &err), &err);
        if (i % 3 == 0)
            tn_cancel(reqs[i / 2]);
    }
    for (uint64_t i = 0; i < JOBS; i++)
        collect(reqs[i], &jobs[i]);
    tn_stats(rt, &stats);
    ck_assert_uint_eq(stats.n_running + stats.n_waiting, 0);
    tn_close(rt);
}
END_TEST

START_TEST(closing_waits_for_what_runs)
{
    tn_runtime *rt = open_on(true, NULL);
    static struct job jobs[8];
    tn_request *reqs[8];
    tn_err err = TN_ERR_INIT;

    for (uint64_t i = 0; i < 8; i++) {
        make_job(&jobs[i], i);
        jobs[i].params.max_new_tokens = MAX_OUTPUT;
        ck_assert_ok(tn_submit(rt, &jobs[i].params, &reqs[i], &err), &err);
    }
    tn_close(rt); /* the device aborts if a block is left */
    for (uint64_t i = 0; i < 8; i++)
        collect(reqs[i], &jobs[i]);
}
END_TEST

/* A device that dies in some step, from the first to the last: every request ends with its words, later ones too. */
START_TEST(a_device_that_dies_takes_nobody_along_silently)
{
    static struct job jobs[JOBS];
    /* What runs before the first step are warm-ups; a device that dies in these says so in the log, and then here. */
    static const char *const kernels[] = {"1", "250", "300", "411", "600"};
    tn_kv dies[] = {{"plugin.shadow.fail_launch", kernels[_i]},
                    {"scheduler.max_batch_size", "16"},
                    {NULL, NULL}};
    tn_runtime *rt = open_on(true, dies);
    uint32_t failed = 0;

    run_jobs(rt, jobs);
    for (int i = 0; i < JOBS; i++) {
        if (jobs[i].finish != TN_FINISH_ERROR)
            continue;
        failed++;
        ck_assert_int_eq(jobs[i].status, TN_E_DEVICE);
        ck_assert_msg(strstr(jobs[i].message, "as it was told to") != NULL, "%s", jobs[i].message);
    }
    ck_assert_uint_gt(failed, 0);
    tn_close(rt);
}
END_TEST

/* A device that never answers, whether the loop waits for it or is in one of its calls: whoever waits is told so, later ones
 * too, and closing does not hang. */
START_TEST(a_device_that_hangs_is_given_up)
{
    static const char *const hangs[][2] = {{"plugin.shadow.hang_kernel", "300"},
                                           {"plugin.shadow.hang_launch", "300"},
                                           {"plugin.shadow.hang_kernel", "600"}};
    const char *how = hangs[_i][0], *at = hangs[_i][1];
    tn_kv settings[] = {{how, at},
                        {"parallel.step_timeout_ms", "1000"},
                        {"kernels.graphs", _i == 2 ? "true" : "false"},
                        {NULL, NULL}};
    static struct job jobs[4], late;
    tn_runtime *rt = open_on(true, settings);
    tn_runtime_stats stats = {.h = TN_HDR(tn_runtime_stats)};
    tn_request *reqs[4], *refused = NULL;
    tn_err err = TN_ERR_INIT;

    for (uint64_t i = 0; i < 4; i++) {
        make_job(&jobs[i], i);
        jobs[i].params.max_new_tokens = MAX_OUTPUT;
        jobs[i].params.ignore_eos = 1;
        ck_assert_ok(tn_submit(rt, &jobs[i].params, &reqs[i], &err), &err);
    }
    for (int i = 0; i < 4; i++) {
        collect(reqs[i], &jobs[i]);
        ck_assert_uint_eq(jobs[i].finish, TN_FINISH_ERROR);
        ck_assert_int_eq(jobs[i].status, TN_E_COMM);
        ck_assert_msg(strstr(jobs[i].message, "rank 0 has not got on with step") != NULL, "%s",
                      jobs[i].message);
    }
    tn_stats(rt, &stats);
    ck_assert_int_eq(stats.status, TN_E_COMM);
    make_job(&late, 9);
    ck_assert_int_eq(tn_submit(rt, &late.params, &refused, &err), TN_E_COMM);
    ck_assert_err_has(&err, "rank 0");
    tn_close(rt);
}
END_TEST

/* Nor does it hang when the device is found out only while closing. */
START_TEST(closing_gives_up_a_device_that_hangs)
{
    tn_kv settings[] = {{"plugin.shadow.hang_kernel", "300"},
                        {"parallel.step_timeout_ms", "1000"},
                        {"kernels.graphs", "false"},
                        {NULL, NULL}};
    static struct job job;
    tn_runtime *rt = open_on(true, settings);
    tn_request *req = NULL;
    tn_err err = TN_ERR_INIT;

    make_job(&job, 1);
    job.params.max_new_tokens = MAX_OUTPUT;
    ck_assert_ok(tn_submit(rt, &job.params, &req, &err), &err);
    tn_close(rt);
    collect(req, &job);
    ck_assert(job.finish == TN_FINISH_ERROR || job.finish == TN_FINISH_CANCELED);
}
END_TEST

/* -- Several ranks ------------------------------------------------------------------------------------- */

#define RANKS(tp, pp)                                                                              \
    {"parallel.tp_size", tp},                                                                      \
    {                                                                                              \
        "parallel.pp_size", pp                                                                     \
    }

static const tn_kv shared[][8] = {
    {RANKS("2", "1"), {"parallel.fusion", "true"}, {NULL, NULL}},
    {RANKS("1", "2"), {NULL, NULL}},
    {RANKS("2", "2"), {"plugin.shadow.devices", "2"}, {NULL, NULL}},
    {RANKS("4", "1"), {"plugin.shadow.devices", "3"}, {"parallel.fusion", "true"}, {NULL, NULL}},
    /* A device each: they meet by themselves, and steps are captured. */
    {RANKS("2", "1"),
     {"parallel.comm",
      "local"}, /* else devices are opened to be measured, too, which replays nothing */
     {"plugin.shadow.devices", "2"},
     {"plugin.shadow.expect", "graphs"},
     {NULL, NULL}},
    {RANKS("4", "1"),
     {"parallel.comm", "local"},
     {"plugin.shadow.devices", "4"},
     {"plugin.shadow.expect", "graphs"},
     {"parallel.fusion", "true"},
     {NULL, NULL}},
    {RANKS("1", "3"), {"parallel.micro_batches", "5"}, {NULL, NULL}},
    {RANKS("2", "2"), {"parallel.comm", "pcie"}, {"plugin.pcie.staged", "true"}, {NULL, NULL}},
    {RANKS("4", "1"),
     {"parallel.comm", "pcie"},
     {"plugin.shadow.devices", "2"},
     {"plugin.shadow.islands", "true"},
     {NULL, NULL}},
    /* Nobody is named: what loses data is found out. */
    {RANKS("2", "1"),
     {"plugin.shadow.devices", "2"},
     {"plugin.shadow.crooked", "true"},
     {NULL, NULL}},
    {RANKS("2", "2"),
     {"plugin.shadow.devices", "2"},
     {"plugin.shadow.crooked", "true"},
     {NULL, NULL}},
};

/* Ranks that share one device, or have several, add in the order in which ranks on the host do: not a bit differs. */
START_TEST(ranks_on_devices_give_the_tokens_of_ranks_on_the_host)
{
    static struct job got[JOBS], want[JOBS];
    tn_kv host[] = {shared[_i][0], shared[_i][1], {NULL, NULL}};
    tn_runtime *rt = open_on(false, host);

    run_jobs(rt, want);
    tn_close(rt);
    rt = open_on(true, shared[_i]);
    run_jobs(rt, got);
    tn_close(rt);
    compare(got, want);
}
END_TEST

static void ranks_of_logits(bool shadow, struct seen *seen)
{
    tn_kv s[] = {RANKS("2", "2"), {NULL, NULL}};
    tn_runtime *rt = open_on(shadow, s);
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_request *req = NULL;
    tn_err err = TN_ERR_INIT;
    tn_event ev = TN_EVENT_INIT;
    int32_t ids[40];

    for (int i = 0; i < 40; i++)
        ids[i] = (i * 37) % 199;
    p.prompt = ids;
    p.n_prompt = 40;
    p.max_new_tokens = 0;
    p.on_logits = on_logits;
    p.arg = seen;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
    ck_assert_uint_eq(ev.finish, TN_FINISH_LENGTH);
    tn_release(req);
    tn_close(rt);
}

START_TEST(logits_of_ranks_come_back_from_the_device)
{
    static struct seen got, want;

    ranks_of_logits(true, &got);
    ranks_of_logits(false, &want);
    ck_assert_uint_eq(got.rows, 40);
    ck_assert_mem_eq(got.logits, want.logits, sizeof want.logits);
}
END_TEST

/* 352 columns in groups of 32: half of them end within one, whose scale both ranks get. */
START_TEST(groups_that_ranks_cut_arrive_on_the_device)
{
    static struct seen got, want;
    static const tn_kv group = {"group", "32"};
    const struct tool_build b = {.model = SOURCE_DIR "/tests/models/llama-gqa",
                                 .output = engine,
                                 .dtype = "float32",
                                 .quant = "int4_g128",
                                 .quant_options = &group,
                                 .n_quant_options = 1,
                                 .max_ppl_increase = -1,
                                 .max_kl = -1,
                                 .quiet = true};
    tn_err err = TN_ERR_INIT;
    json_t *report = NULL;

    snprintf(engine, sizeof engine, "%s/int4", dir);
    ck_assert_ok(tool_build_engine(&b, &report, &err), &err);
    json_decref(report);
    ranks_of_logits(true, &got);
    ranks_of_logits(false, &want);
    ck_assert_uint_eq(got.rows, 40);
    ck_assert_mem_eq(got.logits, want.logits, sizeof want.logits);
    snprintf(engine, sizeof engine, "%s/engine", dir);
}
END_TEST

/* What one request moves, counted from before it to after it. */
static void count_moved(bool shadow, const tn_kv *settings, uint64_t *calls, uint64_t *bytes)
{
    tn_runtime_stats before = {.h = TN_HDR(tn_runtime_stats)}, after = before;
    tn_runtime *rt = open_on(shadow, settings);
    static struct job job;
    tn_request *req = NULL;
    tn_err err = TN_ERR_INIT;

    tn_stats(rt, &before);
    make_job(&job, 1);
    job.params.max_new_tokens = 9;
    ck_assert_ok(tn_submit(rt, &job.params, &req, &err), &err);
    collect(req, &job);
    tn_stats(rt, &after);
    tn_close(rt);
    *calls = after.comm_calls - before.comm_calls;
    *bytes = after.comm_bytes - before.comm_bytes;
}

/* Nobody calls a backend when a captured step is replayed; it moves as much all the same. */
START_TEST(replayed_steps_count_what_they_move)
{
    tn_kv host[] = {RANKS("2", "1"), {NULL, NULL}};
    tn_kv device[] = {RANKS("2", "1"),
                      {"parallel.comm", "local"},
                      {"plugin.shadow.devices", "2"},
                      {"plugin.shadow.expect", "graphs"},
                      {NULL, NULL}};
    uint64_t calls[2], bytes[2];

    count_moved(false, host, &calls[0], &bytes[0]);
    count_moved(true, device, &calls[1], &bytes[1]);
    ck_assert_uint_gt(calls[0], 0);
    ck_assert_uint_eq(calls[1], calls[0]);
    ck_assert_uint_eq(bytes[1], bytes[0]);
}
END_TEST

/* As run_jobs, queued by one call: a device that dies at the first launch would else have the later ones refused. */
static void run_jobs_queued(tn_runtime *rt, struct job *jobs)
{
    const tn_request_params *params[JOBS];
    tn_request *reqs[JOBS];
    tn_err err = TN_ERR_INIT;

    for (uint64_t i = 0; i < JOBS; i++) {
        make_job(&jobs[i], i);
        params[i] = &jobs[i].params;
    }
    ck_assert_ok(tn_submit_many(rt, params, JOBS, reqs, &err), &err);
    for (uint64_t i = 0; i < JOBS; i++)
        collect(reqs[i], &jobs[i]);
}

/* A device that dies under one rank ends the requests of all, with its words, and the runtime closes: whether the others wait for
 * it in threads, or on their devices. */
START_TEST(a_device_that_dies_under_a_rank_is_named)
{
    static struct job jobs[JOBS];
    static const char *const kernels[] = {"1", "300", "1000"};
    tn_kv dies[] = {RANKS("2", "1"),
                    {"plugin.shadow.fail_launch", kernels[_i / 2]},
                    {"plugin.shadow.devices", _i % 2 ? "2" : "1"},
                    {NULL, NULL}};
    tn_runtime *rt = NULL;
    tn_err err = TN_ERR_INIT;
    const char *told = NULL;

    if (try_on(true, dies, &rt, &err) != TN_OK) { /* at what is run to be captured */
        ck_assert_err_has(&err, "as it was told to");
        return;
    }
    run_jobs_queued(rt, jobs);
    for (int i = 0; i < JOBS && !told; i++)
        told = jobs[i].finish == TN_FINISH_ERROR ? jobs[i].message : NULL;
    tn_close(rt);
    ck_assert_msg(told && strstr(told, "as it was told to"), "%s", told ? told : "nobody was told");
}
END_TEST

/* Faults of the comm plugin while the data are on a device: who is missing is named, and nothing hangs. */
START_TEST(a_rank_that_fails_on_a_device_is_named)
{
    static const struct {
        const char *kind, *call, *tp, *pp;
    } f[] = {{"stall", "all_reduce", "2", "1"},
             {"dead", "all_gather", "2", "1"},
             {"drop", "all_reduce", "2", "1"},
             {"stall", "recv", "1", "2"},
             {"stall", "send", "1", "2"}};
    tn_kv s[] = {RANKS(f[_i].tp, f[_i].pp),
                 {"parallel.step_timeout_ms", "1500"},
                 {"scheduler.max_num_tokens", "64"},
                 {"plugin.local.fault", f[_i].kind},
                 {"plugin.local.fault_rank", strcmp(f[_i].call, "recv") == 0 ? "0" : "1"},
                 {"plugin.local.fault_call", f[_i].call},
                 {"plugin.local.fault_at", "3"},
                 {NULL, NULL}};
    const char *named = strcmp(f[_i].call, "recv") == 0 ? "rank 0" : "rank 1";
    static struct job jobs[JOBS];
    tn_runtime *rt = open_on(true, s);
    uint32_t failed = 0;

    run_jobs(rt, jobs);
    for (int i = 0; i < JOBS; i++) {
        if (jobs[i].finish != TN_FINISH_ERROR) /* it ended before */
            continue;
        failed++;
        ck_assert_int_eq(jobs[i].status, TN_E_COMM);
        ck_assert_msg(strstr(jobs[i].message, named) != NULL, "%s", jobs[i].message);
    }
    ck_assert_uint_gt(failed, JOBS / 2);
    tn_close(rt);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop_shadow");
    TCase *t = tcase_create("shadow"), *m = tcase_create("measuring");

    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 900);
    tcase_add_loop_test(t, tokens_are_those_of_the_host, 0, sizeof ways / sizeof *ways);
    tcase_add_loop_test(t, memory_is_foretold_to_the_byte, 0, 3);
    tcase_add_test(t, logits_are_those_of_the_host);
    tcase_add_test(t, requests_may_go_at_any_time);
    tcase_add_test(t, closing_waits_for_what_runs);
    tcase_add_loop_test(t, a_device_that_dies_takes_nobody_along_silently, 0, 5);
    tcase_add_loop_test(t, a_device_that_hangs_is_given_up, 0, 3);
    tcase_add_test(t, closing_gives_up_a_device_that_hangs);
    suite_add_tcase(s, t);
    tcase_add_unchecked_fixture(m, setup, teardown);
    tcase_set_timeout(m, 900);
    tcase_add_test(m, measuring_changes_no_token);
    tcase_add_test(m, first_load_measures_and_keeps_the_times);
    tcase_add_test(m, times_that_cannot_be_kept_stop_nothing);
    tcase_add_test(m, who_is_fast_for_few_rows_puts_nobody_out_who_serves_all);
    tcase_add_test(m, nobody_is_measured_beyond_what_he_serves);
    tcase_add_test(m, host_is_not_measured_at_first_load);
    suite_add_tcase(s, m);
    t = tcase_create("ranks");
    tcase_add_unchecked_fixture(t, setup_ranks, teardown);
    tcase_set_timeout(t, 900);
    tcase_add_loop_test(t, ranks_on_devices_give_the_tokens_of_ranks_on_the_host, 0,
                        sizeof shared / sizeof *shared);
    suite_add_tcase(s, t);
    t = tcase_create("ranks_failing"); /* with what is short: ThreadSanitizer has time for these */
    tcase_add_unchecked_fixture(t, setup_ranks, teardown);
    tcase_set_timeout(t, 900);
    tcase_add_test(t, logits_of_ranks_come_back_from_the_device);
    tcase_add_test(t, groups_that_ranks_cut_arrive_on_the_device);
    tcase_add_loop_test(t, a_device_that_dies_under_a_rank_is_named, 0, 6);
    tcase_add_test(t, replayed_steps_count_what_they_move);
    tcase_add_loop_test(t, a_rank_that_fails_on_a_device_is_named, 0, 5);
    suite_add_tcase(s, t);
    return run_suite(s);
}
