/* SPDX-License-Identifier: Apache-2.0 */
/* The text in which a kernel plugin states what a fused op equals. */
#include "exec/pattern.h"

#include "base/strbuf.h"
#include "check_util.h"

static void check_bad(const char *text, const char *expected)
{
    struct pattern p;
    tn_err err = TN_ERR_INIT;

    memset(&p, 0x5a, sizeof p);
    ck_assert_msg(pattern_parse(text, &p, &err) == TN_E_FORMAT, "accepted: %s", text);
    ck_assert_err_has(&err, expected);
    ck_assert_str_eq(err.field, "equals");
    ck_assert_uint_le(err.offset, strlen(text));
    ck_assert_int_eq(((unsigned char *)&p)[0], 0x5a); /* untouched on failure */
}

static struct pattern parse(const char *text)
{
    struct pattern p;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(pattern_parse(text, &p, &err), &err);
    return p;
}

START_TEST(good_pattern_is_read)
{
    struct pattern p =
        parse("(x) -> (y): g = linear(x); u = linear(x); s = silu(g); y = mul(s, u)");

    ck_assert_uint_eq(p.n_steps, 4);
    ck_assert_uint_eq(p.n_names, 5);
    ck_assert_uint_eq(p.n_in, 1);
    ck_assert_uint_eq(p.n_out, 1);
    ck_assert_str_eq(p.names[p.in[0]], "x");
    ck_assert_str_eq(p.names[p.out[0]], "y");
    ck_assert_str_eq(p.steps[3].op, "mul");
    ck_assert_str_eq(p.names[p.steps[3].in[0]], "s");
    ck_assert_str_eq(p.names[p.steps[3].in[1]], "u");
    ck_assert_str_eq(p.names[p.steps[3].out[0]], "y");
}
END_TEST

START_TEST(blanks_dots_and_several_outputs_are_read)
{
    struct pattern p = parse("\n ( x,y )->( i , p ) :\ti,p=acme.Route_2( x , y )\n");

    ck_assert_str_eq(p.steps[0].op, "acme.Route_2");
    ck_assert_uint_eq(p.steps[0].n_out, 2);
    ck_assert_uint_eq(p.n_in, 2);
    p = parse("() -> (y): y = embedding()");
    ck_assert_uint_eq(p.n_in, 0);
    ck_assert_uint_eq(p.steps[0].n_in, 0);
    p = parse("(x) -> (y): y = mul(x, x)"); /* one value twice */
    ck_assert_uint_eq(p.steps[0].in[0], p.steps[0].in[1]);
}
END_TEST

START_TEST(syntax_errors_are_placed)
{
    check_bad("", "\"(\"");
    check_bad("x -> (y): y = f(x)", "\"(\"");
    check_bad("(x -> (y): y = f(x)", "->");
    check_bad("(x) (y): y = f(x)", "->");
    check_bad("(x) -> y: y = f(x)", "->");
    check_bad("(x) -> (y) y = f(x)", "\"):\"");
    check_bad("(x) -> (y):", "name");
    check_bad("(x) -> (y): y f(x)", "\"=\"");
    check_bad("(x) -> (y): y = (x)", "name");
    check_bad("(x) -> (y): y = f x", "\"(\"");
    check_bad("(x) -> (y): y = f(x", "\")\"");
    check_bad("(x) -> (y): y = f(x,)", "name");
    check_bad("(x) -> (y): y = f(x);", "name");
    check_bad("(x) -> (y): y = f(x) z = g(x)", "the end");
    check_bad("(x) -> (y): y = f(x) # why", "the end");
    check_bad("(x) -> (y): \x80 = f(x)", "");
    check_bad("(x) -> (y): ) = f(x)", "\"=\"");
}
END_TEST

START_TEST(names_are_defined_once_and_before_use)
{
    check_bad("(x, x) -> (y): y = f(x)", "not defined yet");
    check_bad("(x) -> (y): x = f(x); y = g(x)", "not defined yet");
    check_bad("(x) -> (y): y = f(x); y = g(x)", "not defined yet");
    check_bad("(x) -> (y): y = f(y)", "defined before");
    check_bad("(x) -> (y): y = f(z); z = g(x)", "defined before");
    check_bad("(x) -> (y): z = f(x)", "every output");
    check_bad("(x) -> (x): y = f(x)", "not inputs");
    check_bad("(x) -> (): y = f(x)", "at least one output");
}
END_TEST

START_TEST(one_name_for_two_outputs_is_refused)
{
    check_bad("(x) -> (y): y, y = f(x)", "named once");
    check_bad("(x) -> (y, y): y = f(x)", "named once");
}
END_TEST

/* The value that it stands for could not be known. */
START_TEST(input_that_no_statement_reads_is_refused)
{
    check_bad("(x, z) -> (y): y = f(x)", "read");
}
END_TEST

START_TEST(limits_hold)
{
    struct strbuf b = STRBUF_INIT;
    char name[100];

    memset(name, 'n', sizeof name);
    name[31] = '\0';
    strbuf_printf(&b, "(%s) -> (y): y = f(%s)", name, name);
    parse(strbuf_str(&b));
    strbuf_reset(&b);
    name[31] = 'n';
    name[32] = '\0';
    strbuf_printf(&b, "(%s) -> (y): y = f(%s)", name, name);
    check_bad(strbuf_str(&b), "reasonable length");
    strbuf_reset(&b);
    name[32] = 'n';
    name[64] = '\0';
    strbuf_printf(&b, "(x) -> (y): y = %s(x)", name);
    check_bad(strbuf_str(&b), "reasonable length");
    strbuf_release(&b);
    check_bad("(a, b, c, d, e, f, g, h, i, j, k, l, m) -> (y): y = f(a)", "at most 12");
    check_bad("(x) -> (y): y = f(x, x, x, x, x, x, x, x, x, x, x, x, x)", "at most 12");
}
END_TEST

/* (x0) -> (xN): x1 = f(x0); ... */
static void chain(struct strbuf *b, int n, int names)
{
    strbuf_reset(b);
    strbuf_printf(b, "(x0) -> (x%d): ", n);
    for (int i = 1; i <= n; i++)
        strbuf_printf(b, "%sx%d = f(x%d)", i > 1 ? "; " : "", i, i - 1);
    for (int i = 0; i < names; i++)
        strbuf_printf(b, "%s e%d", i ? "," : "; ", i);
}

START_TEST(longest_pattern_is_read_and_no_longer_one)
{
    struct strbuf b = STRBUF_INIT;

    chain(&b, TN_OP_MAX_MEMBERS, 0);
    ck_assert_uint_eq(parse(strbuf_str(&b)).n_steps, TN_OP_MAX_MEMBERS);
    chain(&b, TN_OP_MAX_MEMBERS + 1, 0);
    check_bad(strbuf_str(&b), "at most 24");
    strbuf_reset(&b);
    strbuf_puts(&b, "(x) -> (e0_0): ");
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 7; k++)
            strbuf_printf(&b, "%se%d_%d", k ? ", " : "", i, k);
        strbuf_puts(&b, " = f(x); ");
    }
    check_bad(strbuf_str(&b), "at most 32 names");
    strbuf_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_pattern");
    TCase *t = tcase_create("pattern");

    tcase_add_test(t, good_pattern_is_read);
    tcase_add_test(t, blanks_dots_and_several_outputs_are_read);
    tcase_add_test(t, syntax_errors_are_placed);
    tcase_add_test(t, names_are_defined_once_and_before_use);
    tcase_add_test(t, one_name_for_two_outputs_is_refused);
    tcase_add_test(t, input_that_no_statement_reads_is_refused);
    tcase_add_test(t, limits_hold);
    tcase_add_test(t, longest_pattern_is_read_and_no_longer_one);
    suite_add_tcase(s, t);
    return run_suite(s);
}
