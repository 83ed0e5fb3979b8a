/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every variant of every kernel set for the GPU of this machine against the reference set, in every dtype that it
 * declares, over the grids of kernels/cases.h. Without a GPU the test is skipped: exit status 77.
 *
 * GPU_ONLY=TEXT limits it to variants with TEXT in their names; GPU_SMALL=1 to what compute-sanitizer can bear. The reference
 * takes the time: TENON_TEST_SHARE=I/N (check_util.h) shares its work among N processes.
 */
#include <dlfcn.h>

#include "kernels/cases.h"

static const char *const sets[] = {"cuda", "ampere", "hopper"};
#define N_SETS 3

static struct plug plugs[N_SETS], reference;
static uint32_t n_plugs;
static tn_device_info info;

static void setup(void)
{
    tn_err err = TN_ERR_INIT;

    plug_load(&plugs[0], sets[0], NULL);
    info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    ck_assert_ok(plugs[0].devices->info(plugs[0].instance, 0, &info, &err), &err);
    n_plugs = 1;
    for (uint32_t i = 1; i < N_SETS; i++)
        if (plug_exists(sets[i]))
            plug_load_on(&plugs[n_plugs++], sets[i], &plugs[0]);
    plug_load(&reference, "reference", NULL);
}

static void teardown(void)
{
    plug_unload(&reference);
    while (n_plugs > 0)
        plug_unload(&plugs[--n_plugs]);
}

static bool has_code(const tn_variant *v)
{
    for (const tn_gpu_target *t = v->gpus; t && t->vendor; t++)
        if (t->major == info.gpu.major &&
            (t->mode == TN_GPU_EXACT ? t->minor == info.gpu.minor : t->minor <= info.gpu.minor))
            return true;
    return false;
}

static bool wanted(const tn_variant *v)
{
    const char *only = getenv("GPU_ONLY");

    return has_code(v) && (!only || strstr(v->name, only));
}

static void check_variants(uint32_t dtype, uint32_t *variants, uint32_t *cases)
{
    for (uint32_t p = 0; p < n_plugs; p++)
        for (uint32_t i = 0; i < plugs[p].set->n_variants; i++) {
            uint32_t ran = 0;
            struct subject s = {&plugs[p], &reference, plugs[p].set->variants[i], dtype, &ran};
            if (!wanted(s.v) || !(s.v->act_dtypes & TN_DT_BIT(dtype)))
                continue;
            cases_of(&s);
            if (ran == 0 && (s.v->flags & TN_VARIANT_FALLBACK))
                continue; /* this GPU can do without */
            ck_assert_msg(ran > 0, "%s took none of the cases", s.v->name);
            printf("%s %s: %u cases\n", s.v->name, tn_dtype_name(dtype), ran);
            (*variants)++;
            *cases += ran;
        }
}

static void check_dtype(uint32_t dtype)
{
    uint32_t variants = 0, cases = 0;

    setup();
    check_variants(dtype, &variants, &cases);
    printf("%s: %u variants, %u cases\n", tn_dtype_name(dtype), variants, cases);
    teardown();
}

START_TEST(variants_equal_the_reference_in_float32)
{
    check_dtype(TN_DT_F32);
}
END_TEST

START_TEST(variants_equal_the_reference_in_float16)
{
    check_dtype(TN_DT_F16);
}
END_TEST

START_TEST(variants_equal_the_reference_in_bfloat16)
{
    check_dtype(TN_DT_BF16);
}
END_TEST

/* A case each, so that CK_RUN_CASE lets processes share the work. */
static void add(Suite *s, const char *name, const TTest *test)
{
    TCase *c = tcase_create(name);

    tcase_add_test(c, test);
    suite_add_tcase(s, c);
}

int main(void)
{
    Suite *s = suite_create("gpu_variants");

    if (!dlopen("libcuda.so.1", RTLD_NOW)) {
        printf("no GPU driver here: skipped\n");
        return 77;
    }
    add(s, "float32", variants_equal_the_reference_in_float32);
    add(s, "float16", variants_equal_the_reference_in_float16);
    add(s, "bfloat16", variants_equal_the_reference_in_bfloat16);
    return run_suite(s);
}
