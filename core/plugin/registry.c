/* SPDX-License-Identifier: Apache-2.0 */
/* Candidates, views and lookups. The list of candidates is written by the thread that opens the registry and read
 * only afterwards; the current view is exchanged under a lock. */
#include "plugin/registry.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "plugin/check.h"
#include "plugin/discover.h"
#include "plugin/loader.h"
#include "plugin/os.h"

enum { IFACE_KINDS = 6 };

static const char *const iface_ids[IFACE_KINDS] = {TN_IFACE_MODEL,  TN_IFACE_QUANT,
                                                   TN_IFACE_FORMAT, TN_IFACE_COMM,
                                                   TN_IFACE_DEVICE, TN_IFACE_KERNELS};

struct iface_list {
    struct registry_iface *items;
    size_t count, cap;
};

struct registry_view {
    struct registry *reg;
    uint64_t generation;
    uint32_t refs;           /* guarded by the registry's lock */
    struct plugin **plugins; /* loaded ones, in order of loading */
    uint32_t n_plugins;
    struct iface_list ifaces[IFACE_KINDS];
};

struct registry {
    pthread_mutex_t lock; /* guards the next three and the views' refs */
    struct registry_view *current;
    uint32_t n_views;       /* current and those still held */
    bool closed;            /* ends with the last view */
    struct plugin *plugins; /* every candidate; never moved once views exist */
    uint32_t n_plugins;
    uint64_t generation; /* of the last instance made */
    /* Copies of the options. */
    char **disable, **kernel_sets, **libraries;
    uint32_t n_disable, n_kernel_sets, n_libraries;
    uint8_t (*digests)[SHA256_BYTES];
    struct loader loader;
};

/* -- Options ---------------------------------------------------------------------------------------- */

static void free_texts(char **texts, uint32_t n)
{
    for (uint32_t i = 0; texts && i < n; i++)
        mem_free(texts[i]);
    mem_free(texts);
}

static int32_t copy_texts(const char *const *from, uint32_t n, char ***out, uint32_t *n_out,
                          tn_err *err)
{
    char **copy = n > 0 ? mem_zarray(n, sizeof *copy) : NULL;

    *out = copy;
    *n_out = n;
    if (n > 0 && !copy)
        return err_nomem(err, "the plugin registry");
    for (uint32_t i = 0; i < n; i++)
        if (!(copy[i] = mem_strdup(from[i])))
            return err_nomem(err, "the plugin registry");
    return TN_OK;
}

static int32_t copy_digests(struct registry *reg, const struct registry_options *o, tn_err *err)
{
    reg->digests = mem_zarray(o->n_digests > 0 ? o->n_digests : 1, sizeof *reg->digests);
    if (!reg->digests)
        return err_nomem(err, "the allow-list");
    for (uint32_t i = 0; i < o->n_digests; i++)
        if (strlen(o->digests[i]) != 2 * (size_t)SHA256_BYTES ||
            hex_decode(o->digests[i], reg->digests[i], SHA256_BYTES) != 0)
            return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, "plugins.digests",
                          "\"%.80s\" is no SHA-256 of 64 hex digits", o->digests[i]);
    return TN_OK;
}

static bool listed(char *const *texts, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(texts[i], name) == 0)
            return true;
    return false;
}

/* Whether what has been found before forbids `p`; see struct loader. */
static int32_t veto(const void *arg, const struct plugin *p, tn_err *err)
{
    const struct registry *reg = arg;

    if (listed(reg->disable, reg->n_disable, p->note.name))
        return err_at(err, TN_E_CANCELED, p->path, TN_NO_OFFSET, "plugins.disable",
                      "is switched off in the configuration");
    for (const struct plugin *q = reg->plugins; q < p; q++) {
        if (q->content[0] && q->dev == p->dev && q->ino == p->ino)
            return err_at(err, TN_E_REFUSED, p->path, TN_NO_OFFSET, NULL,
                          "is the same file as %.300s", q->path);
        if (q->state == PLUGIN_LOADED && strcmp(q->note.name, p->note.name) == 0) {
            err_at(err, TN_E_REFUSED, p->path, TN_NO_OFFSET, "note.name",
                   "a plugin named \"%s\" is already loaded from %.300s", p->note.name, q->path);
            err_remedy(err, "remove one of the two");
            return TN_E_REFUSED;
        }
    }
    return TN_OK;
}

static int32_t set_up(struct registry *reg, const struct registry_options *o, tn_err *err)
{
    struct loader *l = &reg->loader;
    int32_t rc;

    rc = copy_texts(o->disable, o->n_disable, &reg->disable, &reg->n_disable, err);
    if (rc == TN_OK)
        rc = copy_texts(o->kernel_sets, o->n_kernel_sets, &reg->kernel_sets, &reg->n_kernel_sets,
                        err);
    if (rc == TN_OK)
        rc = copy_texts(o->libraries, o->n_libraries, &reg->libraries, &reg->n_libraries, err);
    if (rc == TN_OK)
        rc = copy_digests(reg, o, err);
    if (rc != TN_OK)
        return rc;
    note_host_init(&l->host);
    l->host.libraries = (const char *const *)reg->libraries;
    l->host.n_libraries = reg->n_libraries;
    l->digests = (const uint8_t(*)[SHA256_BYTES])reg->digests;
    l->n_digests = o->n_digests;
    l->check_digests = o->allow != REGISTRY_ALLOW_OFF;
    l->enforce = o->allow == REGISTRY_ALLOW_ENFORCE;
    l->ledger = o->ledger;
    l->config = o->config;
    l->config_arg = o->config_arg;
    l->veto = veto;
    l->veto_arg = reg;
    return TN_OK;
}

/* -- Finding and loading -------------------------------------------------------------------------------- */

int32_t registry_default_dir(char **out, tn_err *err)
{
    /* Below bin/: beside it. Below lib/ (an embedder's libtenon.so): in it. */
    static const char *const places[] = {"../" TENON_LIBDIR "/tenon/plugins",
                                         "../lib/tenon/plugins", "tenon/plugins"};
    char *dir = NULL, *path = NULL;
    int32_t rc = os_own_dir(&dir, err);

    for (size_t i = 0; rc == TN_OK && i < sizeof places / sizeof *places; i++) {
        mem_free(path);
        path = path_join(dir, places[i]);
        if (!path)
            rc = err_nomem(err, "a directory name");
        else if (path_is_dir(path))
            break;
        else if (i + 1 == sizeof places / sizeof *places)
            rc = err_at(err, TN_E_NOTFOUND, dir, TN_NO_OFFSET, "plugins.path",
                        "there is no directory %s beside the program", places[0]);
    }
    if (rc == TN_OK) {
        *out = path;
        path = NULL;
    }
    mem_free(path);
    mem_free(dir);
    return rc;
}

static int32_t find_candidates(const struct registry_options *o, struct candidates *found,
                               tn_err *err)
{
    char *dir = NULL;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; rc == TN_OK && i < o->n_paths; i++)
        rc = discover_dir(o->paths[i], found, err);
    if (o->n_paths > 0)
        return rc;
    rc = registry_default_dir(&dir, err);
    if (rc == TN_E_NOTFOUND) {
        log_warn("no plugins: %s", err ? err->msg : "no default directory");
        err_reset(err);
        return TN_OK;
    }
    if (rc == TN_OK)
        rc = discover_dir(dir, found, err);
    mem_free(dir);
    return rc;
}

/* That a machine lacks what a plugin is for, a GPU or its driver, is nothing to warn of. */
static void log_refusal(const struct plugin *p)
{
    bool normal = p->state == PLUGIN_DISABLED || p->err.code == TN_E_UNSUPPORTED;
    struct strbuf line = STRBUF_INIT;

    err_print(&p->err, &line);
    log_write(normal ? TN_LOG_INFO : TN_LOG_WARN, "%s", strbuf_str(&line));
    strbuf_release(&line);
}

static int32_t load_all(struct registry *reg, struct candidates *found, tn_err *err)
{
    reg->plugins = mem_zarray(found->count > 0 ? found->count : 1, sizeof *reg->plugins);
    if (!reg->plugins)
        return err_nomem(err, "the plugin registry");
    for (size_t i = 0; i < found->count; i++) {
        struct plugin *p = &reg->plugins[reg->n_plugins++];
        int32_t rc = found->items[i].err.code;
        p->err = (tn_err)TN_ERR_INIT;
        p->path = found->items[i].path;
        found->items[i].path = NULL;
        if (rc != TN_OK)
            plugin_refuse(p, &found->items[i].err);
        else
            rc = plugin_load(p, &reg->loader);
        if (rc == TN_E_NOMEM)
            return err_nomem(err, "loading plugins");
        if (rc != TN_OK) {
            log_refusal(p);
            continue;
        }
        p->generation = ++reg->generation;
        log_info("plugin %s %s loaded from %s", p->note.name, p->note.version, p->path);
    }
    return TN_OK;
}

/* -- Views -------------------------------------------------------------------------------------------------- */

static int kind_of(const char *id)
{
    for (int i = 0; i < IFACE_KINDS; i++)
        if (strcmp(iface_ids[i], id) == 0)
            return i;
    return -1;
}

static void view_free(struct registry_view *v)
{
    if (!v)
        return;
    for (int i = 0; i < IFACE_KINDS; i++)
        mem_free(v->ifaces[i].items);
    for (uint32_t i = 0; i < v->n_plugins; i++)
        atomic_fetch_sub(&v->plugins[i]->refs, 1);
    mem_free(v->plugins);
    mem_free(v);
}

static bool add_iface(struct registry_view *v, const struct plugin *p, const tn_iface *f)
{
    int kind = kind_of(f->id);
    struct iface_list *l;

    if (kind < 0)
        return true;
    l = &v->ifaces[kind];
    if (!mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] =
        (struct registry_iface){p->note.name, f->vtbl, p->instance, p->generation};
    return true;
}

/* Only kernel sets that are enabled, in the order of the configuration. Stable within a plugin. */
static bool order_kernel_sets(struct registry_view *v, struct iface_list *l)
{
    struct registry *reg = v->reg;
    struct iface_list ordered = {NULL, 0, 0};

    if (reg->n_kernel_sets == 0)
        return true;
    if (!mem_grow(&ordered.items, &ordered.cap, l->count + 1, sizeof *ordered.items))
        return false;
    for (uint32_t i = 0; i < reg->n_kernel_sets; i++) {
        size_t before = ordered.count;
        for (size_t j = 0; j < l->count; j++)
            if (strcmp(l->items[j].plugin_name, reg->kernel_sets[i]) == 0)
                ordered.items[ordered.count++] = l->items[j];
        if (ordered.count == before)
            log_warn("kernels.sets names \"%s\", but no loaded plugin of that name has kernels",
                     reg->kernel_sets[i]);
    }
    mem_free(l->items);
    *l = ordered;
    return true;
}

static int32_t view_new(struct registry *reg, struct registry_view **out, tn_err *err)
{
    struct registry_view *v = mem_zalloc(sizeof *v);

    if (!v)
        return err_nomem(err, "the plugin registry");
    v->reg = reg;
    v->refs = 1;
    v->plugins = mem_zarray(reg->n_plugins > 0 ? reg->n_plugins : 1, sizeof(struct plugin *));
    if (!v->plugins)
        goto nomem;
    for (uint32_t i = 0; i < reg->n_plugins; i++) {
        struct plugin *p = &reg->plugins[i];
        if (p->state != PLUGIN_LOADED)
            continue;
        v->plugins[v->n_plugins++] = p;
        atomic_fetch_add(&p->refs, 1);
        for (uint32_t j = 0; j < p->desc->n_ifaces; j++)
            if (!add_iface(v, p, check_iface(p->desc, j)))
                goto nomem;
    }
    if (!order_kernel_sets(v, &v->ifaces[kind_of(TN_IFACE_KERNELS)]))
        goto nomem;
    v->generation = reg->generation;
    *out = v;
    return TN_OK;
nomem:
    view_free(v);
    return err_nomem(err, "the plugin registry");
}

static void registry_free(struct registry *reg)
{
    for (uint32_t i = reg->n_plugins; i-- > 0;)
        plugin_end(&reg->plugins[i]);
    for (uint32_t i = 0; i < reg->n_plugins; i++)
        mem_free(reg->plugins[i].path);
    mem_free(reg->plugins);
    free_texts(reg->disable, reg->n_disable);
    free_texts(reg->kernel_sets, reg->n_kernel_sets);
    free_texts(reg->libraries, reg->n_libraries);
    mem_free(reg->digests);
    pthread_mutex_destroy(&reg->lock);
    mem_free(reg);
}

const struct registry_view *registry_acquire(struct registry *reg)
{
    struct registry_view *v;

    pthread_mutex_lock(&reg->lock);
    v = reg->current;
    v->refs++;
    pthread_mutex_unlock(&reg->lock);
    return v;
}

void registry_release(const struct registry_view *view)
{
    struct registry_view *v = (struct registry_view *)(uintptr_t)view;
    struct registry *reg;
    bool last, end;

    if (!v)
        return;
    reg = v->reg;
    pthread_mutex_lock(&reg->lock);
    assert(v->refs > 0);
    last = --v->refs == 0;
    if (last) {
        reg->n_views--;
        view_free(v);
    }
    end = last && reg->closed && reg->n_views == 0;
    pthread_mutex_unlock(&reg->lock);
    if (end)
        registry_free(reg);
}

uint64_t registry_generation(const struct registry_view *view)
{
    return view->generation;
}

/* -- What several plugins provide ------------------------------------------------------------------------ */

/* The names under which an interface is looked up: number `i` of them, NULL past the last. */
static const char *provided_name(int kind, const void *vtbl, uint32_t i)
{
    if (kind == kind_of(TN_IFACE_MODEL))
        return ((const tn_model_arch *)vtbl)->model_types[i];
    if (kind == kind_of(TN_IFACE_FORMAT))
        return ((const tn_quant_format *)vtbl)->methods[i];
    if (i > 0)
        return NULL;
    if (kind == kind_of(TN_IFACE_QUANT))
        return ((const tn_quant_scheme *)vtbl)->name;
    if (kind == kind_of(TN_IFACE_COMM))
        return ((const tn_comm_backend *)vtbl)->name;
    if (kind == kind_of(TN_IFACE_DEVICE))
        return ((const tn_device_api *)vtbl)->kind;
    return ((const tn_kernel_set *)vtbl)->device;
}

static bool provides(int kind, const void *vtbl, const char *name)
{
    const char *s;

    for (uint32_t i = 0; (s = provided_name(kind, vtbl, i)) != NULL; i++)
        if (strcmp(s, name) == 0)
            return true;
    return false;
}

static const struct registry_iface *find_iface(const struct registry_view *v, int kind,
                                               const char *name)
{
    const struct iface_list *l = &v->ifaces[kind];

    for (size_t i = 0; i < l->count; i++)
        if (provides(kind, l->items[i].vtbl, name))
            return &l->items[i];
    return NULL;
}

/* Kernel sets of one device are meant to be several; of anything else only the first will be used. */
static void warn_of_doubles(const struct registry_view *v)
{
    for (int kind = 0; kind < IFACE_KINDS; kind++) {
        const struct iface_list *l = &v->ifaces[kind];
        for (size_t i = 0; kind != kind_of(TN_IFACE_KERNELS) && i < l->count; i++) {
            const char *name;
            for (uint32_t j = 0; (name = provided_name(kind, l->items[i].vtbl, j)) != NULL; j++) {
                const struct registry_iface *first = find_iface(v, kind, name);
                if (first != &l->items[i])
                    log_warn("plugins %s and %s both provide %s \"%s\"; the first is used",
                             first->plugin_name, l->items[i].plugin_name, iface_ids[kind], name);
            }
        }
    }
}

/* -- Life --------------------------------------------------------------------------------------------------- */

int32_t registry_open(const struct registry_options *options, struct registry **out, tn_err *err)
{
    struct candidates found = {NULL, 0, 0};
    struct registry *reg = mem_zalloc(sizeof *reg);
    int32_t rc;

    if (!reg)
        return err_nomem(err, "the plugin registry");
    pthread_mutex_init(&reg->lock, NULL);
    rc = set_up(reg, options, err);
    if (rc == TN_OK)
        rc = find_candidates(options, &found, err);
    if (rc == TN_OK)
        rc = load_all(reg, &found, err);
    if (rc == TN_OK)
        rc = view_new(reg, &reg->current, err);
    discover_release(&found);
    if (rc != TN_OK) {
        registry_free(reg);
        return rc;
    }
    reg->n_views = 1;
    warn_of_doubles(reg->current);
    *out = reg;
    return TN_OK;
}

void registry_close(struct registry *reg)
{
    if (!reg)
        return;
    pthread_mutex_lock(&reg->lock);
    reg->closed = true;
    pthread_mutex_unlock(&reg->lock);
    registry_release(reg->current);
}

/* -- Every candidate ------------------------------------------------------------------------------------ */

uint32_t registry_count(const struct registry *reg)
{
    return reg->n_plugins;
}

void registry_info(const struct registry *reg, uint32_t index, struct registry_info *out)
{
    const struct plugin *p = &reg->plugins[index];

    *out = (struct registry_info){.path = p->path,
                                  .name = p->note.name,
                                  .vendor = p->note.vendor,
                                  .version = p->note.version,
                                  .kinds = p->note.kinds,
                                  .swap_class = p->note.swap_class,
                                  .generation = p->generation,
                                  .listed = p->listed,
                                  .err = &p->err};
    out->state = p->state == PLUGIN_LOADED     ? REGISTRY_LOADED
                 : p->state == PLUGIN_DISABLED ? REGISTRY_DISABLED
                                               : REGISTRY_REFUSED;
    memcpy(out->content, p->content, sizeof out->content);
}

void registry_digest(const struct registry *reg, uint32_t index, char out[SHA256_HEX])
{
    plugin_digest(&reg->plugins[index], out);
}

/* -- Looking up ------------------------------------------------------------------------------------------- */

uint32_t registry_ifaces(const struct registry_view *view, const char *id,
                         const struct registry_iface **items)
{
    int kind = kind_of(id);

    *items = kind < 0 ? NULL : view->ifaces[kind].items;
    return kind < 0 ? 0 : (uint32_t)view->ifaces[kind].count;
}

/* "the model type "x" ...; there is: a, b", and who was refused. */
static int32_t not_found(const struct registry_view *v, int kind, const char *what,
                         const char *name, tn_err *err)
{
    const struct iface_list *l = &v->ifaces[kind];
    struct strbuf have = STRBUF_INIT, refused = STRBUF_INIT;
    const char *s;

    for (size_t i = 0; i < l->count; i++)
        for (uint32_t j = 0; (s = provided_name(kind, l->items[i].vtbl, j)) != NULL; j++)
            strbuf_printf(&have, "%s%s", have.len > 0 ? ", " : "", s);
    for (uint32_t i = 0; i < v->reg->n_plugins; i++) {
        const struct plugin *p = &v->reg->plugins[i];
        if (p->state == PLUGIN_REFUSED || p->state == PLUGIN_DISABLED)
            strbuf_printf(&refused, "%s%s", refused.len > 0 ? ", " : "",
                          p->note.name[0] ? p->note.name : path_base(p->path));
    }
    err_at(err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, NULL,
           "no plugin provides %s \"%.60s\"; there is: %s", what, name,
           have.len > 0 ? strbuf_str(&have) : "nothing");
    if (refused.len > 0)
        err_remedy(err, "see `tenon plugin list` for why these are not loaded: %s",
                   strbuf_str(&refused));
    else
        err_remedy(err, "add the plugin's directory to plugins.path");
    strbuf_release(&have);
    strbuf_release(&refused);
    return TN_E_NOTFOUND;
}

static int32_t look_up(const struct registry_view *v, const char *id, const char *what,
                       const char *name, const void **vtbl, void **instance, tn_err *err)
{
    int kind = kind_of(id);
    const struct registry_iface *f = find_iface(v, kind, name);

    if (!f)
        return not_found(v, kind, what, name, err);
    *vtbl = f->vtbl;
    *instance = f->instance;
    return TN_OK;
}

int32_t registry_kernel_sets(const struct registry_view *view, const char *device_kind,
                             struct registry_sets *out, tn_err *err)
{
    int kind = kind_of(TN_IFACE_KERNELS);
    const struct iface_list *l = &view->ifaces[kind];
    uint32_t n = 0;

    for (size_t i = 0; i < l->count; i++) {
        const struct registry_iface *f = &l->items[i];
        if (!provides(kind, f->vtbl, device_kind))
            continue;
        if (n == REGISTRY_MAX_SETS)
            return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "kernels.sets",
                          "more than %d kernel sets serve \"%.60s\"", REGISTRY_MAX_SETS,
                          device_kind);
        out->items[n++] =
            (struct registry_set){f->plugin_name, f->vtbl, f->instance, f->generation};
    }
    if (n == 0)
        return not_found(view, kind, "kernels for device", device_kind, err);
    out->count = n;
    return TN_OK;
}

int32_t registry_device(const struct registry_view *view, const char *kind,
                        const tn_device_api **api, void **instance, tn_err *err)
{
    const void *vtbl;
    int32_t rc = look_up(view, TN_IFACE_DEVICE, "device", kind, &vtbl, instance, err);

    if (rc == TN_OK)
        *api = vtbl;
    return rc;
}

int32_t registry_model(const struct registry_view *view, const char *model_type,
                       const tn_model_arch **arch, void **instance, tn_err *err)
{
    const void *vtbl;
    int32_t rc = look_up(view, TN_IFACE_MODEL, "model_type", model_type, &vtbl, instance, err);

    if (rc == TN_OK)
        *arch = vtbl;
    return rc;
}

int32_t registry_quant(const struct registry_view *view, const char *name,
                       const tn_quant_scheme **scheme, void **instance, tn_err *err)
{
    const void *vtbl;
    int32_t rc = look_up(view, TN_IFACE_QUANT, "quantization", name, &vtbl, instance, err);

    if (rc == TN_OK)
        *scheme = vtbl;
    return rc;
}

int32_t registry_format(const struct registry_view *view, const char *method,
                        const tn_quant_format **format, void **instance, tn_err *err)
{
    const void *vtbl;
    int32_t rc = look_up(view, TN_IFACE_FORMAT, "quant_method", method, &vtbl, instance, err);

    if (rc == TN_OK)
        *format = vtbl;
    return rc;
}

int32_t registry_comm(const struct registry_view *view, const char *name,
                      const tn_comm_backend **backend, void **instance, tn_err *err)
{
    const void *vtbl;
    int32_t rc = look_up(view, TN_IFACE_COMM, "communication backend", name, &vtbl, instance, err);

    if (rc == TN_OK)
        *backend = vtbl;
    return rc;
}

const char *registry_plugin_of(const struct registry_view *view, const void *vtbl)
{
    for (int kind = 0; kind < IFACE_KINDS; kind++)
        for (size_t i = 0; i < view->ifaces[kind].count; i++)
            if (view->ifaces[kind].items[i].vtbl == vtbl)
                return view->ifaces[kind].items[i].plugin_name;
    return "";
}
