/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of core/kv: pages are not lost, not shared with a writer, and never found under a wrong
 * prefix. */
#include "base/err.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check_util.h"
#include "kv/cache.h"
#include "kv/pool.h"

#define BT 4u /* tokens per block */
#define SEQ_BLOCKS 16u

static struct kv_cache *cache_of(uint32_t n_blocks, uint64_t hash_mask)
{
    struct kv_config c = {.n_blocks = n_blocks,
                          .block_tokens = BT,
                          .prefix_reuse = true,
                          .secret = 42,
                          .hash_mask = hash_mask};
    struct kv_cache *k = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(kv_new(&c, &k, &err), &err);
    return k;
}

/* A sequence with its tokens, as the scheduler holds one. */
struct seq {
    struct kv_seq kv;
    struct kv_root root;
    int32_t blocks[SEQ_BLOCKS];
    int32_t tokens[SEQ_BLOCKS * BT];
    uint64_t hashes[SEQ_BLOCKS];
    uint32_t n_tokens, n_hashed, n_found;
};

/* Adopts what is cached of the tokens, takes blocks for the rest; `salt` is a string. */
static bool seq_begin(struct kv_cache *k, struct seq *q, const char *salt, uint32_t n_tokens)
{
    struct kv_match m;

    q->n_tokens = n_tokens;
    q->n_hashed = 0;
    kv_root(k, salt, strlen(salt), 0, &q->root);
    kv_seq_init(&q->kv, &q->root, q->blocks, SEQ_BLOCKS);
    kv_hash(k, &q->root, q->tokens, n_tokens, q->hashes, &q->n_hashed);
    m = kv_find(k, &q->root, q->hashes, q->tokens, (n_tokens - 1) / BT, q->blocks);
    q->n_found = m.n_blocks;
    kv_adopt(k, &q->kv, &m, n_tokens);
    if (kv_grow(k, &q->kv, n_tokens))
        return true;
    kv_seq_release(k, &q->kv);
    return false;
}

/* Tokens base, base + 1, ... */
static void seq_fill(struct seq *q, int32_t base)
{
    for (uint32_t i = 0; i < SEQ_BLOCKS * BT; i++)
        q->tokens[i] = base + (int32_t)i;
}

static void seq_index(struct kv_cache *k, struct seq *q)
{
    kv_index(k, &q->kv, q->hashes, q->tokens, q->n_tokens);
}

static void audit(struct kv_cache *k)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(kv_audit(k, NULL, &err), &err);
}

/* One request from begin to end, so that its full blocks are cached. */
static void cache_prefix(struct kv_cache *k, int32_t base, uint32_t n_tokens)
{
    struct seq q;

    seq_fill(&q, base);
    ck_assert(seq_begin(k, &q, "", n_tokens));
    seq_index(k, &q);
    kv_seq_release(k, &q.kv);
}

static uint32_t found(struct kv_cache *k, int32_t base, uint32_t n_tokens)
{
    struct seq q;
    bool ok;

    seq_fill(&q, base);
    ok = seq_begin(k, &q, "", n_tokens);
    ck_assert(ok);
    kv_seq_release(k, &q.kv);
    return q.n_found;
}

/* -- The pool ---------------------------------------------------------------------------------- */

START_TEST(no_block_is_handed_out_twice)
{
    struct pool p;
    uint8_t seen[8] = {0}, mark[8];
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(pool_init(&p, 8, &err), &err);
    for (int i = 0; i < 8; i++) {
        int32_t b = pool_take(&p);
        ck_assert(b >= 0 && b < 8 && !seen[b]);
        seen[b] = 1;
    }
    ck_assert_int_eq(pool_take(&p), POOL_NONE);
    ck_assert_ok(pool_audit(&p, mark, &err), &err);
    pool_release(&p);
}
END_TEST

START_TEST(releasing_a_free_block_changes_nothing)
{
    struct pool p;
    tn_err err = TN_ERR_INIT;
    uint8_t mark[4];
    int32_t b;

    ck_assert_ok(pool_init(&p, 4, &err), &err);
    b = pool_take(&p);
    ck_assert(pool_unref(&p, b));
    pool_give(&p, b);
    ck_assert(!pool_unref(&p, b));
    ck_assert(!pool_ref(&p, b));
    ck_assert_uint_eq(p.n_free, 4);
    ck_assert_uint_eq(p.faults, 2);
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    pool_release(&p);
}
END_TEST

START_TEST(reference_count_saturates_instead_of_wrapping)
{
    struct pool p;
    tn_err err = TN_ERR_INIT;
    int32_t b;

    ck_assert_ok(pool_init(&p, 1, &err), &err);
    b = pool_take(&p);
    for (uint32_t i = 1; i < POOL_REFS_MAX; i++)
        ck_assert(pool_ref(&p, b));
    ck_assert(!pool_ref(&p, b));
    for (uint32_t i = 1; i < POOL_REFS_MAX; i++)
        ck_assert(!pool_unref(&p, b));
    ck_assert(pool_unref(&p, b));
    pool_give(&p, b);
    pool_release(&p);
}
END_TEST

START_TEST(audit_sees_each_kind_of_damage_to_the_pool)
{
    struct pool p;
    tn_err err = TN_ERR_INIT;
    uint8_t mark[4];
    int32_t a, b;

    ck_assert_ok(pool_init(&p, 4, &err), &err);
    a = pool_take(&p);
    b = pool_take(&p);
    ck_assert(pool_unref(&p, b));
    pool_park(&p, b);
    ck_assert_ok(pool_audit(&p, mark, &err), &err);
    p.refs[a] = 0; /* lost */
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    p.refs[a] = 1;
    p.free_stack[0] = a; /* held and free */
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    p.free_stack[0] = p.free_stack[1]; /* free twice */
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    p.free_stack[0] = 3;
    ck_assert_ok(pool_audit(&p, mark, &err), &err);
    p.links[b].older = a; /* list cut */
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    p.links[b].older = POOL_NONE;
    p.n_parked = 0;
    ck_assert_int_eq(pool_audit(&p, mark, &err), TN_E_INTERNAL);
    pool_release(&p);
}
END_TEST

/* -- Prefixes ---------------------------------------------------------------------------------- */

START_TEST(a_cached_prefix_is_found_and_the_last_token_left_to_compute)
{
    struct kv_cache *k = cache_of(16, 0);
    struct kv_stats st;

    cache_prefix(k, 100, 4 * BT);
    ck_assert_uint_eq(found(k, 100, 4 * BT),
                      3); /* the whole prompt is cached; its last block is not used */
    ck_assert_uint_eq(found(k, 100, 4 * BT + 1), 4);
    ck_assert_uint_eq(found(k, 100, 2 * BT + 3), 2);
    ck_assert_uint_eq(found(k, 101, 4 * BT), 0);
    kv_get_stats(k, &st);
    ck_assert_uint_eq(st.hit_tokens, (3 + 4 + 2) * BT);
    ck_assert_uint_eq(st.n_held, 0);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(equal_tokens_after_another_prefix_are_not_found)
{
    struct kv_cache *k = cache_of(16, 0);
    struct seq q;

    cache_prefix(k, 0, 3 * BT);
    seq_fill(&q, 0);
    q.tokens[0] = 77; /* block 1 and 2 have the same tokens as before */
    ck_assert(seq_begin(k, &q, "", 3 * BT));
    ck_assert_uint_eq(q.n_found, 0);
    seq_index(k, &q);
    kv_seq_release(k, &q.kv);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(tenants_do_not_share)
{
    struct kv_cache *k = cache_of(16, 0);
    struct kv_root a, b, c;
    struct seq q;

    seq_fill(&q, 0);
    ck_assert(seq_begin(k, &q, "alice", 3 * BT));
    seq_index(k, &q);
    kv_seq_release(k, &q.kv);
    ck_assert(seq_begin(k, &q, "bob", 3 * BT));
    ck_assert_uint_eq(q.n_found, 0);
    kv_seq_release(k, &q.kv);
    ck_assert(seq_begin(k, &q, "alice", 3 * BT));
    ck_assert_uint_eq(q.n_found, 2);
    kv_seq_release(k, &q.kv);
    kv_root(k, "x", 1, 0, &a);
    kv_root(k, "x", 1, 7, &b);
    kv_root(k, "x\0", 2, 0, &c);
    ck_assert(a.parent.serial != b.parent.serial && a.parent.serial != c.parent.serial);
    ck_assert(a.parent.mark & 1); /* never the identity of a block */
    kv_free(k);
}
END_TEST

START_TEST(hashes_differ_between_processes)
{
    struct kv_config c = {.n_blocks = 4, .block_tokens = BT, .prefix_reuse = true};
    struct kv_cache *k[2];
    struct kv_root root[2];
    tn_err err = TN_ERR_INIT;

    for (int i = 0; i < 2; i++) {
        ck_assert_ok(kv_new(&c, &k[i], &err), &err);
        kv_root(k[i], "salt", 4, 0, &root[i]);
    }
    ck_assert(root[0].hash != root[1].hash);
    kv_free(k[0]);
    kv_free(k[1]);
}
END_TEST

START_TEST(colliding_hashes_cost_time_and_mix_nothing)
{
    struct kv_cache *k = cache_of(64, UINT64_C(1) << 63); /* two hash values, one bucket */

    for (int32_t i = 0; i < 8; i++)
        cache_prefix(k, i * 1000, 3 * BT);
    for (int32_t i = 0; i < 8; i++)
        ck_assert_uint_eq(found(k, i * 1000, 3 * BT + 1), 3);
    ck_assert_uint_eq(found(k, 9000, 3 * BT), 0);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(a_flooded_bucket_stays_short)
{
    struct kv_cache *k = cache_of(4 * PREFIX_WALK_MAX, UINT64_C(1) << 63);
    struct kv_stats st;

    for (int32_t i = 0; i < 2 * PREFIX_WALK_MAX; i++)
        cache_prefix(k, i * 1000, BT);
    kv_get_stats(k, &st);
    ck_assert_uint_eq(st.indexed, PREFIX_WALK_MAX);
    ck_assert_uint_eq(st.n_cached, PREFIX_WALK_MAX);
    ck_assert_uint_eq(st.unindexed, PREFIX_WALK_MAX);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(the_least_recently_used_prefix_goes_first)
{
    struct kv_cache *k = cache_of(6, 0);
    struct seq q;

    cache_prefix(k, 0, 2 * BT);
    cache_prefix(k, 1000, 2 * BT);
    cache_prefix(k, 2000, 2 * BT);
    ck_assert_uint_eq(found(k, 0, 2 * BT),
                      1); /* touched: 1000 is the oldest now. Takes one block of it */
    seq_fill(&q, 5000);
    ck_assert(seq_begin(k, &q, "", BT));
    kv_seq_release(k, &q.kv);
    ck_assert_uint_eq(found(k, 0, 2 * BT), 1);
    ck_assert_uint_eq(found(k, 2000, 2 * BT), 1);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(a_prefix_outlives_its_continuation)
{
    struct kv_cache *k = cache_of(4, 0);
    struct seq q;

    cache_prefix(k, 0, 4 * BT);
    seq_fill(&q, 1000);
    ck_assert(seq_begin(k, &q, "", 2 * BT)); /* evicts two: the last two of the prefix */
    kv_seq_release(k, &q.kv);
    ck_assert_uint_eq(found(k, 0, 2 * BT + 1), 2);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(a_continuation_of_an_evicted_prefix_is_not_found)
{
    struct kv_cache *k = cache_of(8, 0);
    struct seq a, b, c;

    /* Two compute the same prompt at once; the blocks of `a` are indexed, those of `b` hang on
     * them. */
    seq_fill(&a, 0);
    seq_fill(&b, 0);
    ck_assert(seq_begin(k, &a, "", BT));
    ck_assert(seq_begin(k, &b, "", 2 * BT));
    seq_index(k, &a);
    seq_index(k, &b);
    kv_seq_release(k, &a.kv);
    seq_fill(&c, 5000);
    ck_assert(seq_begin(k, &c, "", 6 * BT)); /* takes what is left, the block of `a` among it */
    kv_seq_release(k, &b.kv);
    kv_seq_release(k, &c.kv);
    ck_assert_uint_eq(found(k, 0, 2 * BT + 1), 0);
    cache_prefix(k, 0, 3 * BT);
    ck_assert_uint_eq(found(k, 0, 2 * BT + 1), 2);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(untrusted_blocks_are_not_found_again)
{
    struct kv_cache *k = cache_of(8, 0);
    struct seq q;

    cache_prefix(k, 0, 2 * BT);
    seq_fill(&q, 0);
    ck_assert(seq_begin(k, &q, "", 4 * BT));
    ck_assert_uint_eq(q.n_found, 2);
    seq_index(k, &q);
    kv_forget(k, &q.kv);
    seq_index(k, &q); /* nothing more enters */
    kv_seq_release(k, &q.kv);
    ck_assert_uint_eq(kv_available(k), 8);
    ck_assert_uint_eq(found(k, 0, 4 * BT), 0);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(growth_is_all_or_nothing)
{
    struct kv_cache *k = cache_of(4, 0);
    struct seq a, b;

    seq_fill(&a, 0);
    seq_fill(&b, 100);
    ck_assert(seq_begin(k, &a, "", 2 * BT));
    ck_assert(seq_begin(k, &b, "", BT));
    ck_assert(!kv_grow(k, &b.kv, 3 * BT));
    ck_assert_uint_eq(b.kv.n_blocks, 1);
    ck_assert_uint_eq(kv_available(k), 1);
    ck_assert(kv_grow(k, &b.kv, 2 * BT));
    ck_assert(!kv_grow(k, &b.kv, UINT32_MAX)); /* no overflow on the way to the block count */
    kv_seq_release(k, &a.kv);
    kv_seq_release(k, &b.kv);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(dropping_the_cache_frees_all_of_it)
{
    struct kv_cache *k = cache_of(8, 0);
    struct kv_stats st;

    cache_prefix(k, 0, 3 * BT);
    cache_prefix(k, 500, 2 * BT);
    ck_assert_uint_eq(kv_drop_cached(k), 5);
    kv_get_stats(k, &st);
    ck_assert_uint_eq(st.n_free, 8);
    audit(k);
    kv_free(k);
}
END_TEST

START_TEST(audit_sees_each_kind_of_damage_to_the_index)
{
    static const int32_t text[BT] = {1, 2, 3, 4};
    struct prefix_parent root = {.serial = 9, .mark = 1}, none = {0, 0};
    struct prefix x;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(prefix_init(&x, 4, BT, &err), &err);
    ck_assert(prefix_add(&x, 2, 5, root, text));
    ck_assert_int_eq(prefix_find(&x, 5, none, text), -1);
    ck_assert_int_eq(prefix_find(&x, 5, root, text), 2);
    ck_assert_ok(prefix_audit(&x, &err), &err);
    x.nodes[2].hash = 6; /* in another one's chain */
    ck_assert_int_eq(prefix_audit(&x, &err), TN_E_INTERNAL);
    x.nodes[2].hash = 5;
    x.nodes[2].next = 2; /* a loop */
    ck_assert_int_eq(prefix_audit(&x, &err), TN_E_INTERNAL);
    x.nodes[2].next = -1;
    x.nodes[2].parent = none;
    ck_assert_int_eq(prefix_audit(&x, &err), TN_E_INTERNAL);
    x.nodes[2].parent = root;
    x.n_nodes = 2;
    ck_assert_int_eq(prefix_audit(&x, &err), TN_E_INTERNAL);
    x.n_nodes = 1;
    x.buckets[5] = -1; /* not to be found */
    ck_assert_int_eq(prefix_audit(&x, &err), TN_E_INTERNAL);
    x.buckets[5] = 2;
    ck_assert_ok(prefix_audit(&x, &err), &err);
    prefix_remove(&x, 2);
    prefix_remove(&x, 2);
    ck_assert_uint_eq(x.n_nodes, 0);
    prefix_release(&x);
}
END_TEST

START_TEST(audit_sees_a_holder_too_many)
{
    struct kv_cache *k = cache_of(4, 0);
    uint16_t owned[4] = {0};
    tn_err err = TN_ERR_INIT;
    struct seq q;

    seq_fill(&q, 0);
    ck_assert(seq_begin(k, &q, "", BT));
    owned[q.blocks[0]] = 1;
    ck_assert_ok(kv_audit(k, owned, &err), &err);
    owned[q.blocks[0]] = 2;
    ck_assert_int_eq(kv_audit(k, owned, &err), TN_E_INTERNAL);
    ck_assert_err_has(&err, "2 own it");
    kv_free(k);
}
END_TEST

/* -- At large ---------------------------------------------------------------------------------- */

/* What a page holds: the tokens of its block and of all before it, as only a right device would
 * know. */
struct page {
    uint32_t tenant, n;
    int32_t text[SEQ_BLOCKS * BT];
};

static void write_pages(struct page *pages, const struct seq *q, uint32_t tenant)
{
    for (uint32_t i = q->n_found; i < q->kv.n_blocks; i++) {
        struct page *p = &pages[q->blocks[i]];
        uint32_t n = (i + 1) * BT < q->n_tokens ? (i + 1) * BT : q->n_tokens;
        p->tenant = tenant;
        p->n = n;
        memcpy(p->text, q->tokens, n * sizeof *q->tokens);
    }
}

static void read_pages(const struct page *pages, const struct seq *q, uint32_t tenant)
{
    for (uint32_t i = 0; i < q->n_found; i++) {
        const struct page *p = &pages[q->blocks[i]];
        ck_assert_uint_eq(p->tenant, tenant);
        ck_assert_uint_eq(p->n, (i + 1) * BT);
        ck_assert_mem_eq(p->text, q->tokens, p->n * sizeof *q->tokens);
    }
}

/* Random sequences over few tokens and tenants, some alive at once, against what the pages hold. */
static void simulate(uint64_t seed, uint64_t hash_mask, uint32_t n_blocks)
{
    static const char *const salts[] = {"", "a", "b"};
    struct kv_cache *k = cache_of(n_blocks, hash_mask);
    struct page pages[64];
    struct seq seqs[6];
    bool alive[6] = {false};
    uint64_t n_hits = 0;
    struct rng rng = {seed};

    for (int step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)rng_below(&rng, 6), tenant = (uint32_t)rng_below(&rng, 3);
        struct seq *q = &seqs[i];
        if (alive[i]) {
            kv_index(k, &q->kv, q->hashes, q->tokens, (uint32_t)rng_below(&rng, q->n_tokens + 1));
            if (rng_below(&rng, 20) == 0)
                kv_forget(k, &q->kv);
            kv_seq_release(k, &q->kv);
            alive[i] = false;
        } else {
            for (uint32_t t = 0; t < SEQ_BLOCKS * BT; t++)
                q->tokens[t] = rng_below(&rng, 12) == 0;
            alive[i] = seq_begin(k, q, salts[tenant], 1 + (uint32_t)rng_below(&rng, 40));
            if (alive[i]) {
                read_pages(pages, q, tenant);
                write_pages(pages, q, tenant);
                n_hits += q->n_found;
            }
        }
        if (step % 16 == 0)
            audit(k);
    }
    ck_assert_uint_gt(n_hits, 1000);
    for (uint32_t i = 0; i < 6; i++)
        if (alive[i])
            kv_seq_release(k, &seqs[i].kv);
    ck_assert_uint_eq(kv_available(k), n_blocks);
    audit(k);
    kv_free(k);
}

START_TEST(random_traffic_never_finds_a_wrong_page)
{
    simulate(1, 0, 40);
    simulate(2, 0, 64);
}
END_TEST

START_TEST(random_traffic_with_colliding_hashes_never_finds_a_wrong_page)
{
    simulate(3, UINT64_C(1) << 63, 40);
    simulate(4, UINT64_C(3) << 62, 64);
}
END_TEST

START_TEST(sizes_out_of_range_are_refused_by_name)
{
    static const struct {
        uint32_t n_blocks, block_tokens;
        const char *field;
    } bad[] = {{0, 16, "n_blocks"},
               {LIMIT_KV_BLOCKS + 1, 16, "n_blocks"},
               {4, 0, "block_tokens"},
               {4, 24, "block_tokens"},
               {4, 2 * LIMIT_BLOCK_TOKENS, "block_tokens"}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kv_config c = {.n_blocks = bad[i].n_blocks, .block_tokens = bad[i].block_tokens};
        struct kv_cache *k = NULL;
        tn_err err = TN_ERR_INIT;
        ck_assert_int_eq(kv_new(&c, &k, &err), TN_E_RANGE);
        ck_assert_str_eq(err.field, bad[i].field);
        ck_assert(err.remedy[0]);
        ck_assert_ptr_null(k);
    }
}
END_TEST

START_TEST(creation_survives_memory_running_out)
{
    struct kv_config c = {.n_blocks = 16, .block_tokens = 16, .prefix_reuse = true};
    bool struck = true;

    for (uint64_t n = 1; struck; n++) {
        struct kv_cache *k = NULL;
        tn_err err = TN_ERR_INIT;
        int32_t rc;
        ck_assert_uint_lt(n, 100);
        mem_fail_nth(n, false);
        rc = kv_new(&c, &k, &err);
        struck = mem_injected();
        mem_fail_nth(0, false);
        ck_assert_int_eq(rc, struck ? TN_E_NOMEM : TN_OK);
        ck_assert(struck == (k == NULL));
        kv_free(k);
    }
}
END_TEST

START_TEST(without_reuse_nothing_is_kept)
{
    struct kv_config c = {.n_blocks = 8, .block_tokens = BT, .prefix_reuse = false};
    struct kv_cache *k = NULL;
    struct kv_stats st;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(kv_new(&c, &k, &err), &err);
    cache_prefix(k, 0, 3 * BT);
    ck_assert_uint_eq(found(k, 0, 3 * BT), 0);
    kv_get_stats(k, &st);
    ck_assert_uint_eq(st.n_free, 8);
    audit(k);
    kv_free(k);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kv");
    TCase *t = tcase_create("kv");

    tcase_add_test(t, no_block_is_handed_out_twice);
    tcase_add_test(t, releasing_a_free_block_changes_nothing);
    tcase_add_test(t, reference_count_saturates_instead_of_wrapping);
    tcase_add_test(t, audit_sees_each_kind_of_damage_to_the_pool);
    tcase_add_test(t, a_cached_prefix_is_found_and_the_last_token_left_to_compute);
    tcase_add_test(t, equal_tokens_after_another_prefix_are_not_found);
    tcase_add_test(t, tenants_do_not_share);
    tcase_add_test(t, hashes_differ_between_processes);
    tcase_add_test(t, colliding_hashes_cost_time_and_mix_nothing);
    tcase_add_test(t, a_flooded_bucket_stays_short);
    tcase_add_test(t, the_least_recently_used_prefix_goes_first);
    tcase_add_test(t, a_prefix_outlives_its_continuation);
    tcase_add_test(t, a_continuation_of_an_evicted_prefix_is_not_found);
    tcase_add_test(t, untrusted_blocks_are_not_found_again);
    tcase_add_test(t, growth_is_all_or_nothing);
    tcase_add_test(t, dropping_the_cache_frees_all_of_it);
    tcase_add_test(t, audit_sees_each_kind_of_damage_to_the_index);
    tcase_add_test(t, audit_sees_a_holder_too_many);
    tcase_add_test(t, random_traffic_never_finds_a_wrong_page);
    tcase_add_test(t, random_traffic_with_colliding_hashes_never_finds_a_wrong_page);
    tcase_add_test(t, sizes_out_of_range_are_refused_by_name);
    tcase_add_test(t, creation_survives_memory_running_out);
    tcase_add_test(t, without_reuse_nothing_is_kept);
    suite_add_tcase(s, t);
    return run_suite(s);
}
