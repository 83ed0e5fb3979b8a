/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile templates: what one could do to the host that renders it. Each must end in an error of its kind, soon
 * and within bounded memory, and reach nothing but the values it was given.
 */
#include "jinja_case.h"

#include <stdlib.h>

#include "base/limits.h"
#include "base/strbuf.h"

#define CONTEXT "{\"s\": \"text\", \"l\": [3, 1, 2], \"d\": {\"k\": 1}}"

/* Repeats `piece` `n` times between `before` and `after`. */
static char *repeated(const char *before, const char *piece, size_t n, const char *after)
{
    struct strbuf b = STRBUF_INIT;
    char *text;

    strbuf_puts(&b, before);
    for (size_t i = 0; i < n; i++)
        strbuf_puts(&b, piece);
    strbuf_puts(&b, after);
    text = mem_strdup(strbuf_str(&b));
    strbuf_release(&b);
    ck_assert_ptr_nonnull(text);
    return text;
}

/* -- Time ------------------------------------------------------------------------------------------------ */

START_TEST(endless_loops_run_out_of_fuel)
{
    static const char *const loops[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(100) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endfor %}"
        "{% endmacro %}{{ f(100) }}",
        "{% for i in [0] recursive %}{% for j in range(1000) %}{% set x = loop.index %}{% endfor %}"
        "{% if loop.depth < 50 %}{{ loop([0, 0, 0, 0]) }}{% endif %}{% endfor %}",
        "{% set l = range(100000)|list %}{% for i in l %}{% if i in l[::-1] %}{% endif %}{% endfor "
        "%}",
        "{% set l = range(100000)|list %}{% for i in l %}{{ l|sum }}{% endfor %}",
        "{% set l = range(10000)|list %}{% for i in l %}{% set x = l == l|list %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(100000) %}{% if 'b' * 50 in s %}{% endif %}"
        "{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(100000) %}{% if s == s ~ '' %}{% endif %}"
        "{% endfor %}",
        "{% for i in range(100000) %}{% set x = range(100000)|map('string')|list %}{% endfor %}",
        "{% for i in range(100000) %}{% set x = range(1000)|sort|unique|list %}{% endfor %}",
    };
    const struct jinja_options small = {.limits = {.fuel = 200000}};
    tn_err err;

    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        fails_with(loops[i], CONTEXT, &small, JINJA_LIMIT, &err);
        ck_assert_int_eq(err.code, TN_E_LIMIT);
        ck_assert_err_has(&err, "line 1");
    }
}
END_TEST

START_TEST(default_fuel_ends_an_endless_loop)
{
    tn_err err;

    fails_with("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
               CONTEXT, NULL, JINJA_LIMIT, &err);
    ck_assert_int_eq(err.code, TN_E_LIMIT);
}
END_TEST

START_TEST(long_conversations_need_a_fraction_of_the_fuel)
{
    char *context = repeated("{\"messages\": [", "{\"role\": \"user\", \"content\": \"hello\"},",
                             1000, "{\"role\": \"assistant\", \"content\": \"x\"}]}");
    struct jinja_result r = JINJA_RESULT_INIT;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(
        render_with("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim + "
                    "'<|end|>' }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
                    context, NULL, &r, &err),
        &err);
    ck_assert_uint_lt(r.fuel_used, 1000000);
    jinja_result_release(&r);
    mem_free(context);
}
END_TEST

START_TEST(range_of_a_billion_is_refused)
{
    fails("{{ range(1000000000) }}", CONTEXT, JINJA_ARITHMETIC);
    fails("{{ range(1000000000)|list }}", CONTEXT, JINJA_ARITHMETIC);
    fails("{% for i in range(0, 1000000000) %}{% endfor %}", CONTEXT, JINJA_ARITHMETIC);
    fails("{{ range(-9223372036854775807, 9223372036854775807) }}", CONTEXT, JINJA_ARITHMETIC);
    fails("{{ range(0, 9223372036854775807, 3) }}", CONTEXT, JINJA_ARITHMETIC);
    renders("{{ range(0, 9223372036854775807, 9223372036854775807)|list }}", CONTEXT, "[0]");
}
END_TEST

/* -- Memory ---------------------------------------------------------------------------------------------- */

START_TEST(strings_that_double_hit_the_memory_cap)
{
    static const char *const bombs[] = {
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}"
        "{% set ns.s = ns.s|replace('a', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(64) %}"
        "{% set ns.s = ns.s.join([ns.s, ns.s]) ~ 'a' %}{% endfor %}",
        "{% set ns = namespace(s='a{0}{0}') %}{% for i in range(64) %}"
        "{% set ns.s = ns.s.format(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}"
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
        "{% set ns = namespace(l=[0, 0]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}"
        "{% endfor %}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% endfor %}{{ ns.l|string }}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(s='<') %}{% for i in range(64) %}{% set ns.s = ns.s|forceescape %}"
        "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(64) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}"
        "{% endset %}{% endfor %}",
        "{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ f('aa', 90) "
        "}}",
        "{{ 'x' * 1000000000 }}",
        "{{ 9223372036854775807 * 'xx' }}",
        "{{ [0] * 1000000000 }}",
        "{{ [0] * 9223372036854775807 }}",
    };

    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++)
        fails(bombs[i], CONTEXT, JINJA_LIMIT);
}
END_TEST

START_TEST(widths_of_a_billion_hit_a_cap)
{
    static const char *const pads[] = {
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x'.rjust(9223372036854775807) }}",
        "{{ 'x'.zfill(1000000000) }}",
        "{{ 'x'|center(1000000000) }}",
        "{{ '\\t'.expandtabs(1000000000) }}",
        "{{ s|indent(1000000000, true) }}",
        "{{ d|tojson(indent=1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ '%.1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format('x') }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ '{:{}}'.format('x', 1000000000) }}",
        "{{ l|batch(1000000000, 0)|list }}",
        "{{ l|slice(1000000000)|list }}",
    };
    struct jinja_result r = JINJA_RESULT_INIT;

    for (size_t i = 0; i < sizeof pads / sizeof *pads; i++) {
        tn_err err = TN_ERR_INIT;
        int32_t rc = render_with(pads[i], CONTEXT, NULL, &r, &err);
        ck_assert_msg(rc == TN_E_LIMIT || err.native == JINJA_VALUE, "%s: %s", pads[i], err.msg);
    }
}
END_TEST

START_TEST(endless_output_hits_the_output_cap)
{
    const struct jinja_options small = {.limits = {.output_bytes = 10000}};
    tn_err err;

    fails_with("{% for i in range(100000) %}0123456789{% endfor %}", CONTEXT, &small, JINJA_LIMIT,
               &err);
    ck_assert_err_has(&err, "10000");
    fails_with("{{ 'x' * 10001 }}", CONTEXT, &small, JINJA_LIMIT, &err);
    renders("{{ ('x' * 10001)|length }}", CONTEXT, "10001");
}
END_TEST

START_TEST(a_small_memory_cap_is_kept)
{
    const struct jinja_options small = {.limits = {.memory_bytes = 1 << 20}};
    tn_err err;

    fails_with("{{ ('x' * 2000000)|length }}", CONTEXT, &small, JINJA_LIMIT, &err);
    fails_with("{{ (range(100000)|list)|length }}", CONTEXT, &small, JINJA_LIMIT, &err);
    fails_with("{% for i in range(100000) %}{% set x = [i, i, i] %}{% endfor %}", CONTEXT, &small,
               JINJA_LIMIT, &err);
}
END_TEST

/* -- Depth ----------------------------------------------------------------------------------------------- */

static void deep(const char *open, const char *middle, const char *close, size_t n,
                 enum jinja_failure why)
{
    struct strbuf b = STRBUF_INIT;

    for (size_t i = 0; i < n; i++)
        strbuf_puts(&b, open);
    strbuf_puts(&b, middle);
    for (size_t i = 0; i < n; i++)
        strbuf_puts(&b, close);
    fails(strbuf_str(&b), CONTEXT, why);
    strbuf_release(&b);
}

START_TEST(templates_nested_too_deeply_are_refused)
{
    deep("{% if 1 %}", "x", "{% endif %}", 20000, JINJA_LIMIT);
    deep("{% for i in [1] %}", "x", "{% endfor %}", 20000, JINJA_LIMIT);
    deep("{% set x %}", "x", "{% endset %}", 20000, JINJA_LIMIT);
    deep("{% filter upper %}", "x", "{% endfilter %}", 20000, JINJA_LIMIT);
    deep("{% with %}", "x", "{% endwith %}", 20000, JINJA_LIMIT);
    deep("{% macro f() %}", "x", "{% endmacro %}", 20000, JINJA_LIMIT);
    deep("{% call f() %}", "x", "{% endcall %}", 20000, JINJA_LIMIT);
    deep("{% generation %}", "x", "{% endgeneration %}", 20000, JINJA_LIMIT);
    deep("{% if 1 %}{% elif 1 %}", "x", "{% endif %}", 20000, JINJA_LIMIT);
}
END_TEST

START_TEST(expressions_nested_too_deeply_are_refused)
{
    static const char *const pieces[] = {"(",     "[",     "{1:", "-",    "not ", "f(",
                                         "a if ", "1 + (", "a[",  "a.b(", "~",    "a ** "};

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char *text = repeated("{{ ", pieces[i], 100000, "1 }}");
        tn_err err = TN_ERR_INIT;
        struct jinja_result r = JINJA_RESULT_INIT;
        ck_assert_int_lt(render_with(text, CONTEXT, NULL, &r, &err), 0);
        ck_assert_str_ne(err.msg, "");
        mem_free(text);
    }
}
END_TEST

START_TEST(long_chains_are_not_recursion)
{
    static const char *const pieces[] = {" + 1",  "|string", " ~ 'x'", " and 1",
                                         ".real", "|d",      " or 0"};

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char *text = repeated("{{ 1", pieces[i], 60000, " }}");
        struct jinja_result r = JINJA_RESULT_INIT;
        tn_err err = TN_ERR_INIT;
        int32_t rc = render_with(text, CONTEXT, NULL, &r, &err);
        ck_assert_msg(rc == TN_OK || rc == TN_E_LIMIT, "%s: %s", pieces[i], err.msg);
        jinja_result_release(&r);
        mem_free(text);
    }
}
END_TEST

START_TEST(recursion_of_macros_loops_and_data_ends)
{
    char *deep_json = repeated("{\"v\": ", "[", 900, "");
    struct strbuf b = STRBUF_INIT;

    fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", CONTEXT, JINJA_LIMIT);
    fails("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
          CONTEXT, JINJA_LIMIT);
    fails("{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
          CONTEXT, JINJA_LIMIT);
    fails("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", CONTEXT, JINJA_LIMIT);
    fails("{% block b %}{{ self.b() }}{% endblock %}", CONTEXT, JINJA_LIMIT);
    fails("{% set ns = namespace(l=[0]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}"
          "{% endfor %}{{ ns.l }}",
          CONTEXT, JINJA_LIMIT);
    fails("{% set ns = namespace(l=[0]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}"
          "{% endfor %}{{ ns.l == [ns.l] }}{{ ns.l|tojson }}",
          CONTEXT, JINJA_LIMIT);
    fails("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", CONTEXT, JINJA_LIMIT);
    strbuf_puts(&b, deep_json);
    for (int i = 0; i < 900; i++)
        strbuf_puts(&b, "]");
    strbuf_puts(&b, "}");
    renders("{{ v|length }}", strbuf_str(&b), "1");
    strbuf_release(&b);
    mem_free(deep_json);
}
END_TEST

/* -- Reach ----------------------------------------------------------------------------------------------- */

START_TEST(attribute_tricks_reach_nothing)
{
    static const char *const tricks[] = {
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{{ [].__class__.__base__.__subclasses__()[0] }}",
        "{{ self.__init__.__globals__.__builtins__ }}",
        "{{ self._TemplateReference__context.x }}",
        "{{ cycler('a').__init__.__globals__.os.popen('id').read() }}",
        "{{ joiner.__init__.__globals__.os }}",
        "{{ namespace.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id') }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ range.__globals__.x }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ l.append.__self__.x }}",
        "{{ s.format.__globals__.x }}",
        "{{ '{0.__class__.__mro__}'.format(s) }}",
        "{{ '{0[__class__][x]}'.format(s) }}",
        "{{ '{x.__class__.y}'.format_map({'x': s}) }}",
        "{{ '%(__class__)s' % d }}",
        "{{ l|map(attribute='__class__.__mro__')|list }}",
        "{{ [l]|sort(attribute='__class__.x')|first }}",
        "{{ [d]|groupby('__class__.x')|list }}",
        "{% macro f() %}{% endmacro %}{{ f.__globals__.x }}",
        "{% macro f() %}{% endmacro %}{{ f._func.x }}",
        "{% for i in l %}{{ loop.__init__.__globals__.x }}{% endfor %}",
        "{% for i in l %}{{ loop._iterator.x }}{% endfor %}",
        "{{ caller.__class__.x }}",
        "{{ request.application.__globals__ }}",
        "{{ config.items() }}",
        "{{ get_flashed_messages.__globals__ }}",
        "{{ url_for.__globals__ }}",
        "{{ x.__class__.__init__.__globals__ }}",
        "{{ undefined.__class__.x }}",
        "{{ (l|map('upper')).gi_frame.f_globals }}",
        "{{ d.__getattribute__('x') }}",
        "{{ s.encode().decode.x }}",
    };
    tn_err err;

    for (size_t i = 0; i < sizeof tricks / sizeof *tricks; i++) {
        struct jinja_result r = JINJA_RESULT_INIT;
        err = (tn_err)TN_ERR_INIT;
        ck_assert_msg(render_with(tricks[i], CONTEXT, NULL, &r, &err) < 0, "%s renders %s",
                      tricks[i], strbuf_str(&r.text));
        ck_assert_msg(err.native == JINJA_SECURITY || err.native == JINJA_UNDEFINED ||
                          err.native == JINJA_LOOKUP || err.native == JINJA_TYPE ||
                          err.native == JINJA_UNSUPPORTED,
                      "%s: %s", tricks[i], err.msg);
    }
}
END_TEST

START_TEST(the_given_values_cannot_be_changed)
{
    static const char *const changes[] = {
        "{{ l.append(1) }}",          "{{ l.pop() }}",        "{{ l.clear() }}",
        "{{ l.extend([1]) }}",        "{{ l.insert(0, 1) }}", "{{ l.remove(1) }}",
        "{{ l.reverse() }}",          "{{ l.sort() }}",       "{{ d.update({}) }}",
        "{{ d.pop('k') }}",           "{{ d.popitem() }}",    "{{ d.clear() }}",
        "{{ d.setdefault('x', 1) }}",
    };

    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        fails(changes[i], CONTEXT, JINJA_SECURITY);
    fails("{% set d.k = 2 %}", CONTEXT, JINJA_RUNTIME);
}
END_TEST

START_TEST(files_cannot_be_included)
{
    fails("{% include '/etc/passwd' %}", CONTEXT, JINJA_TYPE);
    fails("{% include ['a', 'b'] %}", CONTEXT, JINJA_TYPE);
    fails("{% extends '/etc/passwd' %}", CONTEXT, JINJA_TYPE);
    fails("{% import 'x' as y %}{{ y }}", CONTEXT, JINJA_TYPE);
    fails("{% from 'x' import y %}{{ y }}", CONTEXT, JINJA_TYPE);
}
END_TEST

/* -- Bytes ----------------------------------------------------------------------------------------------- */

START_TEST(templates_that_are_not_utf8_are_refused)
{
    static const char *const bad[] = {
        "\xff",         "a\x80",          "\xc0\xaf",        "\xed\xa0\x80",
        "{{ '\xf8' }}", "{# \xe2\x82 #}", "\xf4\x90\x80\x80"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        fails(bad[i], "{}", JINJA_SYNTAX);
}
END_TEST

START_TEST(nul_bytes_are_characters)
{
    static const char text[] = "a\0{{ s }}";
    struct jinja_result r = JINJA_RESULT_INIT;
    json_t *c = json_pack("{s:s%}", "s", "x\0y", (size_t)3);
    tn_err err = TN_ERR_INIT;
    struct jinja *t = NULL;

    ck_assert_ok(jinja_compile("t", text, sizeof text - 1, &t, &err), &err);
    ck_assert_ok(jinja_render(t, c, NULL, &r, &err), &err);
    ck_assert_uint_eq(r.text.len, 5);
    ck_assert_mem_eq(strbuf_str(&r.text), "a\0x\0y", 5);
    jinja_result_release(&r);
    jinja_free(t);
    json_decref(c);
}
END_TEST

START_TEST(templates_over_the_cap_are_refused)
{
    char *text = repeated("", "0123456789abcdef", LIMIT_TEMPLATE_BYTES / 16, "x");
    tn_err err;

    fails_with(text, "{}", NULL, JINJA_LIMIT, &err);
    ck_assert_err_has(&err, "chat_template.jinja");
    text[LIMIT_TEMPLATE_BYTES] = 0;
    renders(text, "{}", text);
    mem_free(text);
}
END_TEST

START_TEST(numbers_beyond_64_bits_are_errors)
{
    fails("{{ 9223372036854775807 + 1 }}", "{}", JINJA_ARITHMETIC);
    fails("{{ -9223372036854775807 - 2 }}", "{}", JINJA_ARITHMETIC);
    fails("{{ 9223372036854775807 * 3 }}", "{}", JINJA_ARITHMETIC);
    fails("{{ 10 ** 30 }}", "{}", JINJA_ARITHMETIC);
    fails("{{ 2 ** 9223372036854775807 }}", "{}", JINJA_ARITHMETIC);
    fails("{{ 1e300|int }}", "{}", JINJA_ARITHMETIC);
    fails("{{ (-9223372036854775807 - 1) // -1 }}", "{}", JINJA_ARITHMETIC);
    renders("{{ (-9223372036854775807 - 1) % -1 }}", "{}", "0");
    fails("{{ -(-9223372036854775807 - 1) }}", "{}", JINJA_ARITHMETIC);
    fails("{{ (-9223372036854775807 - 1)|abs }}", "{}", JINJA_ARITHMETIC);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("jinja_hostile");
    TCase *c = tcase_create("hostile");

    tcase_add_test(c, endless_loops_run_out_of_fuel);
    tcase_add_test(c, default_fuel_ends_an_endless_loop);
    tcase_add_test(c, long_conversations_need_a_fraction_of_the_fuel);
    tcase_add_test(c, range_of_a_billion_is_refused);
    tcase_add_test(c, strings_that_double_hit_the_memory_cap);
    tcase_add_test(c, widths_of_a_billion_hit_a_cap);
    tcase_add_test(c, endless_output_hits_the_output_cap);
    tcase_add_test(c, a_small_memory_cap_is_kept);
    tcase_add_test(c, templates_nested_too_deeply_are_refused);
    tcase_add_test(c, expressions_nested_too_deeply_are_refused);
    tcase_add_test(c, long_chains_are_not_recursion);
    tcase_add_test(c, recursion_of_macros_loops_and_data_ends);
    tcase_add_test(c, attribute_tricks_reach_nothing);
    tcase_add_test(c, the_given_values_cannot_be_changed);
    tcase_add_test(c, files_cannot_be_included);
    tcase_add_test(c, templates_that_are_not_utf8_are_refused);
    tcase_add_test(c, nul_bytes_are_characters);
    tcase_add_test(c, templates_over_the_cap_are_refused);
    tcase_add_test(c, numbers_beyond_64_bits_are_errors);
    suite_add_tcase(s, c);
    return run_suite(s);
}
