/* SPDX-License-Identifier: Apache-2.0 */
/* Every process of a run under mpirun: all goldens, then quantized engines, one after the other; MPI is started once for all of
 * them. The first process builds and compares, the others follow. mpirun.py starts it:
 *
 *     test_mpi DIR TP PP PARTS COMM */
#include <mpi.h>

#include "api/engines.h"
#include "api/golden.h"
#include "base/mem.h"
#include "check_util.h"

static const char *dir, *comm;
static struct layout layout;
static int process;
static char engine[256];

static int32_t open_with(const struct layout *l, const char *how, tn_runtime **rt, tn_err *err)
{
    tn_kv settings[] = {{"device.kind", "cpu"},      {"parallel.tp_size", l->tp},
                        {"parallel.pp_size", l->pp}, {"parallel.micro_batches", l->parts},
                        {"parallel.comm", how},      {"parallel.join_timeout_ms", "60000"}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;

    o.engine = engine;
    o.settings = settings;
    o.n_settings = sizeof settings / sizeof *settings;
    return tn_open(&o, rt, err);
}

/* Opens the engine that the first process has built; the others have done their part when it returns NULL. */
static tn_runtime *open_all(void)
{
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;

    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert_ok(open_with(&layout, comm, &rt, &err), &err);
    if (process == 0)
        return rt;
    ck_assert_ok(tn_follow(rt, NULL, NULL, &err), &err);
    tn_close(rt);
    return NULL;
}

START_TEST(goldens_hold_under_mpirun)
{
    for (const char *const *model = golden_models; *model; model++) {
        tn_runtime *rt;
        struct golden g;
        golden_read(*model, &g);
        if (golden_divides(&g, &layout)) {
            if (process == 0)
                build_engine_of(g.path, dir, "float32");
            rt = open_all();
            if (rt)
                golden_check(rt, &g, *model);
            tn_close(rt);
        }
        golden_release(&g);
    }
}
END_TEST

START_TEST(quantized_engines_agree_under_mpirun)
{
    const struct layout one = {"1", "1", "0"};

    for (int i = 0; i < GOLDEN_SCHEMES; i++) {
        const struct scheme *s = &golden_schemes[i];
        float *alone = NULL, *many;
        tn_err err = TN_ERR_INIT;
        tn_runtime *rt = NULL;
        struct golden g;
        if (strcmp(s->name, "int4_g128") == 0 && strcmp(layout.tp, "4") == 0)
            continue; /* 22 groups of 16 columns have no fourth part */
        golden_read("llama-gqa", &g);
        if (process == 0) {
            golden_quantize(&g, s, engine);
            ck_assert_ok(open_with(&one, "local", &rt, &err), &err);
            alone = golden_logits(rt, &g);
            tn_close(rt);
        }
        rt = open_all();
        if (rt) {
            many = golden_logits(rt, &g);
            golden_agree(&g, s, &layout, "auto", alone, many);
            mem_free(many);
        }
        tn_close(rt);
        mem_free(alone);
        golden_release(&g);
    }
}
END_TEST

int main(int argc, char **argv)
{
    Suite *s = suite_create("mpi");
    TCase *t = tcase_create("mpi");
    SRunner *r = srunner_create(s);
    int provided = 0, failed;

    if (argc != 6)
        return 2;
    dir = argv[1];
    layout = (struct layout){argv[2], argv[3], argv[4]};
    comm = argv[5];
    snprintf(engine, sizeof engine, "%s/engine", dir);
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &process);
    tcase_add_test(t, goldens_hold_under_mpirun);
    tcase_add_test(t, quantized_engines_agree_under_mpirun);
    suite_add_tcase(s, t);
    srunner_set_fork_status(r, CK_NOFORK); /* MPI does not survive it */
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    if (failed)
        MPI_Abort(MPI_COMM_WORLD, 1); /* others may be waiting for this one */
    MPI_Finalize();
    return 0;
}
