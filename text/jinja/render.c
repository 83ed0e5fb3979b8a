/* SPDX-License-Identifier: Apache-2.0 */
/* The public functions: compile, render, and the life of both. See jinja.h. */
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jinja/context.h"
#include "jinja/eval.h"
#include "jinja/parser.h"
#include "jinja/scope.h"

/* Steps of a compile: the scope rules look at the body of a loop once per loop around it. */
#define COMPILE_STEPS (UINT64_C(20) * 1000 * 1000)

void jinja_free(struct jinja *t)
{
    if (!t)
        return;
    map_release(&t->name_map);
    arena_release(&t->arena);
    mem_free(t->name);
    mem_free(t);
}

static bool check_text(struct jcompile *c, const char *text, size_t len)
{
    size_t at = 0, n;
    uint32_t cp;

    if (len > LIMIT_TEMPLATE_BYTES)
        return jcompile_fail(c, 0, JINJA_LIMIT, "is %zu bytes long, more than %llu", len,
                             (unsigned long long)LIMIT_TEMPLATE_BYTES);
    while (at < len && (n = utf8_decode(text + at, len - at, &cp)) != 0)
        at += n;
    return at == len ||
           jcompile_fail(c, (uint32_t)at, JINJA_SYNTAX, "is not UTF-8 at byte %zu", at);
}

static bool compile(struct jcompile *c, const char *text, size_t len)
{
    struct jinja *t = c->t;

    if (!check_text(c, text, len))
        return false;
    t->source = jcompile_alloc(c, len + 1);
    if (!t->source)
        return false;
    if (len)
        memcpy(t->source, text, len);
    t->source_len = jlexer_normalize(t->source, len);
    t->root = jparse(c);
    return t->root && !c->failed && jscope_resolve(c);
}

int32_t jinja_compile(const char *name, const char *text, size_t len, struct jinja **out,
                      tn_err *err)
{
    tn_err local = TN_ERR_INIT;
    struct jcompile c = {.err = err ? err : &local, .steps = COMPILE_STEPS};

    c.t = mem_zalloc(sizeof *c.t);
    if (!c.t || !(c.t->name = mem_strdup(name))) {
        jinja_free(c.t);
        return err_nomem(err, "a template");
    }
    if (!compile(&c, text, len)) {
        jinja_free(c.t);
        return c.err->code;
    }
    *out = c.t;
    return TN_OK;
}

bool jinja_mentions(const struct jinja *t, const char *variable)
{
    uint64_t number;

    return map_get(&t->name_map, variable, strlen(variable), &number);
}

static bool vm_init(struct jvm *vm)
{
    const struct jinja_limits *l = &vm->options->limits;

    vm->fuel_cap = vm->fuel_left = l->fuel ? l->fuel : JINJA_DEFAULT_FUEL;
    vm->memory_cap = vm->memory_left = l->memory_bytes ? l->memory_bytes : JINJA_DEFAULT_MEMORY;
    vm->at = vm->t->root;
    vm->globals = jvm_array(vm, vm->t->name_count, sizeof *vm->globals);
    vm->exported = jvm_array(vm, vm->t->name_count, sizeof *vm->exported);
    vm->free_acts = jvm_array(vm, vm->t->funcs, sizeof(struct jactivation *));
    return vm->globals && vm->exported && vm->free_acts;
}

static bool run(struct jvm *vm, const json_t *context, struct jbuild *out)
{
    const struct jinja_limits *l = &vm->options->limits;

    if (!vm_init(vm) || !jbuild_init(vm, out) || !jcontext_load(vm, context))
        return false;
    out->limit = l->output_bytes ? l->output_bytes : JINJA_DEFAULT_OUTPUT;
    vm->root = out;
    vm->act = jactivation_new(vm, vm->t->scope->func, NULL);
    if (!vm->act)
        return false;
    if (vm->t->root->flags & JNF_SELF)
        jslot(vm, vm->t->self_ref)->type = J_SELF;
    jscope_enter(vm, vm->t->scope);
    return jexec(vm, vm->t->root, out) == JFLOW_NEXT;
}

/* Copies what the caller gets out of the arena. */
static bool export_result(const struct jvm *vm, const struct jbuf *buf, struct jinja_result *out)
{
    size_t begin = 0;

    strbuf_append(&out->text, buf->data ? buf->data : "", buf->len);
    out->ranges = mem_array(buf->run_count, sizeof *out->ranges);
    out->generations = mem_array(vm->span_count, sizeof *out->generations);
    if (out->text.failed || !out->ranges || !out->generations)
        return false;
    for (size_t i = 0; i < buf->run_count; i++) {
        out->ranges[i] = (struct jinja_range){begin, buf->runs[i].end, buf->runs[i].trusted};
        begin = buf->runs[i].end;
    }
    out->range_count = buf->run_count;
    if (vm->span_count)
        memcpy(out->generations, vm->spans, vm->span_count * sizeof *vm->spans);
    out->generation_count = vm->span_count;
    out->fuel_used = vm->fuel_cap - vm->fuel_left;
    out->memory_used = vm->memory_cap - vm->memory_left;
    return true;
}

int32_t jinja_render(const struct jinja *t, const json_t *context,
                     const struct jinja_options *options, struct jinja_result *out, tn_err *err)
{
    static const struct jinja_options none;
    tn_err local = TN_ERR_INIT;
    struct jinja_result result = JINJA_RESULT_INIT;
    struct jvm vm = {.t = t, .err = err ? err : &local, .options = options ? options : &none};
    struct jbuild build = {0};
    int32_t rc = TN_OK;

    if (!json_is_object(context))
        return tn_err_set(err, TN_E_INVALID, "the context of a template must be an object");
    if (!run(&vm, context, &build)) {
        rc = vm.err->code;
    } else if (!export_result(&vm, build.buf, &result)) {
        jinja_result_release(&result);
        rc = err_nomem(err, "a rendered template");
    } else {
        *out = result;
    }
    jvm_release(&vm);
    return rc;
}

void jinja_result_release(struct jinja_result *r)
{
    strbuf_release(&r->text);
    mem_free(r->ranges);
    mem_free(r->generations);
    *r = (struct jinja_result)JINJA_RESULT_INIT;
}
