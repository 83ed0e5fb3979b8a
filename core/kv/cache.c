/* SPDX-License-Identifier: Apache-2.0 */
/* The paged KV cache: the pool and the prefix index under one set of rules (see the header). Paged
 * attention's block tables follow Kwon et al. 2023 (vLLM); keys are chained, keyed and compared,
 * after CVE-2025-25183. Called by the thread of the step loop; kv_root and kv_hash by any thread. */
#include "kv/cache.h"

#include <assert.h>
#include <xxhash.h>

#include "base/digest.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kv/pool.h"

struct kv_cache {
    struct kv_config config; /* secret and hash_mask filled in */
    uint32_t block_shift;
    struct pool pool;
    struct prefix prefix; /* zeroed unless config.prefix_reuse */
    uint8_t *mark;        /* [n_blocks] scratch of kv_audit */
    struct kv_stats stats;
};

static int32_t check(const struct kv_config *c, tn_err *err)
{
    if (c->n_blocks < 1 || c->n_blocks > LIMIT_KV_BLOCKS) {
        err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, "n_blocks", "is %u, must be 1 .. %u",
               c->n_blocks, LIMIT_KV_BLOCKS);
        err_remedy(err, "give the KV cache memory for at least one block, or use larger blocks");
        return TN_E_RANGE;
    }
    if (c->block_tokens < 1 || c->block_tokens > LIMIT_BLOCK_TOKENS ||
        (c->block_tokens & (c->block_tokens - 1))) {
        err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, "block_tokens",
               "is %u, must be a power of two, 1 .. %u", c->block_tokens, LIMIT_BLOCK_TOKENS);
        err_remedy(err, "use 16, 32 or 64");
        return TN_E_RANGE;
    }
    return TN_OK;
}

int32_t kv_new(const struct kv_config *config, struct kv_cache **out, tn_err *err)
{
    struct kv_cache *k = NULL;
    int32_t rc = check(config, err);

    if (rc)
        return rc;
    k = mem_zalloc(sizeof *k);
    if (!k)
        return err_nomem(err, "the KV cache");
    k->config = *config;
    if (k->config.secret == 0)
        k->config.secret = rng_entropy();
    if (k->config.hash_mask == 0)
        k->config.hash_mask = UINT64_MAX;
    while ((UINT32_C(1) << k->block_shift) < config->block_tokens)
        k->block_shift++;
    rc = pool_init(&k->pool, config->n_blocks, err);
    if (!rc && config->prefix_reuse)
        rc = prefix_init(&k->prefix, config->n_blocks, config->block_tokens, err);
    if (!rc) {
        k->mark = mem_array(config->n_blocks, 1);
        if (!k->mark)
            rc = err_nomem(err, "the KV cache");
    }
    if (rc) {
        kv_free(k);
        return rc;
    }
    *out = k;
    return TN_OK;
}

void kv_free(struct kv_cache *k)
{
    if (!k)
        return;
    pool_release(&k->pool);
    prefix_release(&k->prefix);
    mem_free(k->mark);
    mem_free(k);
}

uint32_t kv_n_blocks(const struct kv_cache *k)
{
    return k->config.n_blocks;
}

uint32_t kv_block_tokens(const struct kv_cache *k)
{
    return k->config.block_tokens;
}

uint32_t kv_available(const struct kv_cache *k)
{
    return pool_available(&k->pool);
}

/* -- Names of blocks --------------------------------------------------------------------------- */

void kv_root(const struct kv_cache *k, const void *salt, size_t n, uint64_t variant,
             struct kv_root *out)
{
    uint8_t text[2 * sizeof(uint64_t) + LIMIT_SALT_BYTES], digest[SHA256_BYTES];
    uint64_t word[3];

    assert(n <= LIMIT_SALT_BYTES);
    memcpy(text, &k->config.secret, sizeof(uint64_t));
    memcpy(text + sizeof(uint64_t), &variant, sizeof(uint64_t));
    if (n)
        memcpy(text + 2 * sizeof(uint64_t), salt, n);
    sha256_of(text, 2 * sizeof(uint64_t) + n, digest);
    memcpy(word, digest, sizeof word);
    out->parent = (struct prefix_parent){.serial = word[0], .mark = word[1] | 1};
    out->hash = word[2] & k->config.hash_mask;
}

void kv_hash(const struct kv_cache *k, const struct kv_root *root, const int32_t *tokens,
             uint32_t n_tokens, uint64_t *hashes, uint32_t *n_hashed)
{
    uint32_t n_full = n_tokens >> k->block_shift;
    uint64_t hash = *n_hashed ? hashes[*n_hashed - 1] : root->hash;

    if (!k->config.prefix_reuse)
        return;
    for (uint32_t i = *n_hashed; i < n_full; i++) {
        hash = XXH3_64bits_withSeed(tokens + ((size_t)i << k->block_shift),
                                    sizeof *tokens << k->block_shift, hash);
        hash &= k->config.hash_mask;
        hashes[i] = hash;
    }
    if (n_full > *n_hashed)
        *n_hashed = n_full;
}

/* -- Sequences --------------------------------------------------------------------------------- */

void kv_seq_init(struct kv_seq *q, const struct kv_root *root, int32_t *blocks, uint32_t cap)
{
    *q = (struct kv_seq){.blocks = blocks, .cap = cap, .parent = root->parent};
}

struct kv_match kv_find(const struct kv_cache *k, const struct kv_root *root,
                        const uint64_t *hashes, const int32_t *tokens, uint32_t max_blocks,
                        int32_t *blocks)
{
    struct kv_match m = {0, 0};
    struct prefix_parent parent = root->parent;

    if (!k->config.prefix_reuse)
        return m;
    while (m.n_blocks < max_blocks) {
        int32_t b = prefix_find(&k->prefix, hashes[m.n_blocks], parent,
                                tokens + ((size_t)m.n_blocks << k->block_shift));
        if (b == -1 || k->pool.refs[b] == POOL_REFS_MAX)
            break;
        m.n_idle += k->pool.refs[b] == 0;
        parent = prefix_as_parent(&k->prefix, b);
        blocks[m.n_blocks++] = b;
    }
    return m;
}

void kv_adopt(struct kv_cache *k, struct kv_seq *q, const struct kv_match *m, uint32_t n_tokens)
{
    assert(q->n_blocks == 0 && m->n_blocks <= q->cap);
    for (uint32_t i = 0; i < m->n_blocks; i++) {
        bool ok = pool_ref(&k->pool, q->blocks[i]);
        assert(ok);
        (void)ok;
    }
    q->n_blocks = m->n_blocks;
    q->n_indexed = m->n_blocks;
    if (m->n_blocks)
        q->parent = prefix_as_parent(&k->prefix, q->blocks[m->n_blocks - 1]);
    k->stats.query_tokens += n_tokens;
    k->stats.hit_tokens += (uint64_t)m->n_blocks << k->block_shift;
}

/* Blocks that n_tokens positions fill, the last one perhaps in part. */
static uint32_t blocks_for(const struct kv_cache *k, uint32_t n_tokens)
{
    return (uint32_t)(((uint64_t)n_tokens + k->config.block_tokens - 1) >> k->block_shift);
}

uint32_t kv_growth(const struct kv_cache *k, const struct kv_seq *q, uint32_t n_tokens)
{
    uint32_t need = blocks_for(k, n_tokens);

    return need > q->n_blocks ? need - q->n_blocks : 0;
}

bool kv_grow(struct kv_cache *k, struct kv_seq *q, uint32_t n_tokens)
{
    uint32_t more = kv_growth(k, q, n_tokens);

    if (more > pool_available(&k->pool) || more > q->cap - q->n_blocks)
        return false;
    for (; more > 0; more--) {
        if (k->pool.n_free == 0) {
            int32_t victim = k->pool.oldest;
            prefix_remove(&k->prefix, victim);
            pool_drop(&k->pool, victim);
            k->stats.evictions++;
        }
        q->blocks[q->n_blocks++] = pool_take(&k->pool);
        k->stats.taken++;
    }
    return true;
}

void kv_index(struct kv_cache *k, struct kv_seq *q, const uint64_t *hashes, const int32_t *tokens,
              uint32_t n_tokens)
{
    uint32_t n_full = n_tokens >> k->block_shift;

    if (!k->config.prefix_reuse)
        return;
    for (uint32_t i = q->n_indexed; i < n_full && !q->unindexed; i++) {
        const int32_t *text = tokens + ((size_t)i << k->block_shift);
        int32_t block = q->blocks[i];
        int32_t there = prefix_find(&k->prefix, hashes[i], q->parent, text);
        if (there == -1 && prefix_add(&k->prefix, block, hashes[i], q->parent, text)) {
            k->stats.indexed++;
            there = block;
        } else {
            k->stats.unindexed++;
        }
        /* An equal block got there first: ours stays private, and what follows hangs on the other.
         * Should that one be evicted meanwhile, our later blocks cannot be found; they age out. */
        if (there == -1)
            q->unindexed = true;
        else
            q->parent = prefix_as_parent(&k->prefix, there);
        q->n_indexed = i + 1;
    }
}

void kv_forget(struct kv_cache *k, struct kv_seq *q)
{
    q->unindexed = true;
    if (!k->config.prefix_reuse)
        return;
    for (uint32_t i = 0; i < q->n_blocks; i++)
        prefix_remove(&k->prefix, q->blocks[i]);
}

void kv_seq_release(struct kv_cache *k, struct kv_seq *q)
{
    while (q->n_blocks > 0) {
        int32_t b = q->blocks[--q->n_blocks];
        if (!pool_unref(&k->pool, b))
            continue;
        if (k->config.prefix_reuse && prefix_has(&k->prefix, b))
            pool_park(&k->pool, b);
        else
            pool_give(&k->pool, b);
    }
    q->n_indexed = 0;
    q->unindexed = false;
}

/* -- Looking at it ----------------------------------------------------------------------------- */

void kv_get_stats(const struct kv_cache *k, struct kv_stats *out)
{
    *out = k->stats;
    out->n_blocks = k->config.n_blocks;
    out->n_free = k->pool.n_free;
    out->n_cached = k->pool.n_parked;
    out->n_held = out->n_blocks - out->n_free - out->n_cached;
}

uint32_t kv_refs(const struct kv_cache *k, int32_t block)
{
    return k->pool.refs[block];
}

uint32_t kv_drop_cached(struct kv_cache *k)
{
    uint32_t n = 0;

    for (; k->pool.n_parked > 0; n++) {
        int32_t b = k->pool.oldest;
        prefix_remove(&k->prefix, b);
        pool_drop(&k->pool, b);
    }
    return n;
}

int32_t kv_audit(struct kv_cache *k, const uint16_t *owned, tn_err *err)
{
    int32_t rc = pool_audit(&k->pool, k->mark, err);

    if (!rc && k->config.prefix_reuse)
        rc = prefix_audit(&k->prefix, err);
    for (uint32_t b = 0; !rc && b < k->config.n_blocks; b++) {
        if (owned && owned[b] != k->pool.refs[b])
            rc = tn_err_set(err, TN_E_INTERNAL, "KV cache: block %u has %u holders, %u own it", b,
                            k->pool.refs[b], owned[b]);
        else if (k->pool.parked[b] && !prefix_has(&k->prefix, (int32_t)b))
            rc = tn_err_set(err, TN_E_INTERNAL, "KV cache: block %u is parked, not indexed", b);
        else if (k->config.prefix_reuse && prefix_has(&k->prefix, (int32_t)b) &&
                 k->pool.refs[b] == 0 && !k->pool.parked[b])
            rc = tn_err_set(err, TN_E_INTERNAL, "KV cache: free block %u is in the index", b);
    }
    return rc;
}
