/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sample kernel plugin: two ops for the cpu device.
 *
 *   acme.scale_add   y = a + factor * b. An op of our own: a model plugin may emit it when this set is there.
 *   acme.silu_mul    silu, then mul: the middle of a gated MLP in one pass over memory. The host finds the places where
 *                    the two basic ops stand together by the text in `equals`.
 *
 * Both split the elements of a step among the device's workers. Neither allocates, waits or keeps state.
 */
#include <math.h>

#include "tenon/kernels.h"
#include "tenon/plugin.h"

TN_PLUGIN_NOTE(.kinds = TN_KIND_KERNELS, .name = "acme", .vendor = "acme", .version = "1.0.0");

struct instance {
    const tn_host *host;
    const tn_device_api *api; /* of the devices that it is attached to */
};

/* -- The kernels ---------------------------------------------------------------------------------------- */

/* One launch, as the workers see it: n elements of two inputs and an output. */
struct work {
    const float *a, *b;
    float *y;
    uint64_t n;
    float factor;
};

static uint64_t share(const struct work *w, uint32_t index, uint32_t count)
{
    return w->n / count * index + w->n % count * index / count;
}

static void scale_add_part(void *arg, uint32_t index, uint32_t count)
{
    const struct work *w = arg;
    uint64_t end = share(w, index + 1, count);

    for (uint64_t i = share(w, index, count); i < end; i++)
        w->y[i] = w->a[i] + w->factor * w->b[i];
}

static void silu_mul_part(void *arg, uint32_t index, uint32_t count)
{
    const struct work *w = arg;
    uint64_t end = share(w, index + 1, count);

    for (uint64_t i = share(w, index, count); i < end; i++)
        w->y[i] = w->a[i] / (1.0f + expf(-w->a[i])) * w->b[i];
}

static void run(const struct instance *in, const tn_launch *l, tn_parallel_fn part, float factor)
{
    struct work w = {l->in[0], l->in[1], l->out[0], 0, factor};

    w.n = (uint64_t)l->batch->n_rows * l->op->out[0]->width;
    if (in->api && in->api->parallel)
        in->api->parallel(l->device, part, &w);
    else
        part(&w, 0, 1);
}

static int32_t launch_scale_add(void *instance, const tn_launch *l, tn_err *err)
{
    (void)err;
    run(instance, l, scale_add_part, (float)tn_op_real(l->op, "factor", 1.0));
    return TN_OK;
}

static int32_t launch_silu_mul(void *instance, const tn_launch *l, tn_err *err)
{
    (void)err;
    run(instance, l, silu_mul_part, 1.0f);
    return TN_OK;
}

/* -- What they can do and what they cost --------------------------------------------------------------------- */

/* Values of logits have their own number of rows; this sample leaves them to others. */
static int32_t can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (op->n_in != 2 || op->n_out != 1 || op->out[0]->kind != TN_VALUE_ROWS ||
        op->in[0]->width != op->out[0]->width || op->in[1]->width != op->out[0]->width)
        return tn_err_set(err, TN_E_UNSUPPORTED, "takes two rows values of one width only");
    return TN_OK;
}

/* Nanoseconds, measured on one core and rounded: be honest, others are compared with it. */
static double cost_scale_add(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return 200.0 + 0.3 * (double)op->out[0]->width * rows;
}

static double cost_silu_mul(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return 200.0 + 6.0 * (double)op->out[0]->width * rows;
}

static const tn_variant scale_add = {
    .h = TN_HDR(tn_variant),
    .name = "scale_add.f32",
    .op = "acme.scale_add",
    .flags = TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT,
    .act_dtypes = TN_DT_BIT(TN_DT_F32),
    .can_run = can_run,
    .cost_ns = cost_scale_add,
    .launch = launch_scale_add,
};

static const tn_variant silu_mul = {
    .h = TN_HDR(tn_variant),
    .name = "silu_mul.f32",
    .op = "acme.silu_mul",
    .equals = "(g, u) -> (y): s = silu(g); y = mul(s, u)",
    .flags = TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT,
    .act_dtypes = TN_DT_BIT(TN_DT_F32),
    .can_run = can_run,
    .cost_ns = cost_silu_mul,
    .launch = launch_silu_mul,
};

static const tn_variant *const variants[] = {&scale_add, &silu_mul};

static int32_t attach(void *instance, const tn_device_api *api, tn_device *device, tn_err *err)
{
    (void)device;
    (void)err;
    ((struct instance *)instance)->api = api;
    return TN_OK;
}

static void detach(void *instance, tn_device *device)
{
    (void)instance;
    (void)device;
}

static const tn_kernel_set set = {.h = TN_HDR(tn_kernel_set),
                                  .device = "cpu",
                                  .n_variants = 2,
                                  .variants = variants,
                                  .attach = attach,
                                  .detach = detach};

/* -- The plugin ------------------------------------------------------------------------------------------------ */

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct instance *in;

    if (n_config > 0)
        return tn_err_set(err, TN_E_CONFIG, "%s: there is no such setting", config[0].key);
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "no memory for an instance");
    in->host = host;
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct instance *in = instance;

    in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_KERNELS, &set}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "acme",
                                 .vendor = "acme",
                                 .version = "1.0.0",
                                 .n_ifaces = 1,
                                 .ifaces = ifaces,
                                 .init = init,
                                 .fini = fini};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
