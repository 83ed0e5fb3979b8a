/* SPDX-License-Identifier: Apache-2.0 */
#include "base/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium/crypto_hash_sha256.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"

struct xxh128 {
    XXH3_state_t *state;
};

int32_t xxh128_new(struct xxh128 **out, tn_err *err)
{
    struct xxh128 *x = mem_zalloc(sizeof *x);

    if (x)
        x->state = XXH3_createState();
    if (!x || !x->state) {
        mem_free(x);
        return err_nomem(err, "a digest");
    }
    xxh128_reset(x);
    *out = x;
    return TN_OK;
}

void xxh128_reset(struct xxh128 *x)
{
    XXH3_128bits_reset(x->state);
}

void xxh128_update(struct xxh128 *x, const void *data, size_t n)
{
    XXH3_128bits_update(x->state, data, n);
}

static void put(XXH128_hash_t h, uint8_t out[XXH128_BYTES])
{
    XXH128_canonical_t c;

    XXH128_canonicalFromHash(&c, h);
    memcpy(out, c.digest, XXH128_BYTES);
}

void xxh128_final(const struct xxh128 *x, uint8_t out[XXH128_BYTES])
{
    put(XXH3_128bits_digest(x->state), out);
}

void xxh128_free(struct xxh128 *x)
{
    if (!x)
        return;
    XXH3_freeState(x->state);
    mem_free(x);
}

void xxh128_of(const void *data, size_t n, uint8_t out[XXH128_BYTES])
{
    put(XXH3_128bits(data, n), out);
}

void sha256_of(const void *data, size_t n, uint8_t out[SHA256_BYTES])
{
    crypto_hash_sha256(out, data, n);
}

int32_t sha256_file(const char *path, uint8_t out[SHA256_BYTES], tn_err *err)
{
    enum { CHUNK = 1 << 16 };
    crypto_hash_sha256_state state;
    unsigned char *buf = NULL;
    int32_t rc = TN_OK;
    int fd;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "open", path, errno);
    buf = mem_alloc(CHUNK);
    if (!buf) {
        rc = err_nomem(err, "hashing a file");
        goto done;
    }
    crypto_hash_sha256_init(&state);
    for (;;) {
        ssize_t n = read(fd, buf, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = err_errno(err, "read", path, errno);
            goto done;
        }
        if (n == 0)
            break;
        crypto_hash_sha256_update(&state, buf, (unsigned long long)n);
    }
    crypto_hash_sha256_final(&state, out);
done:
    mem_free(buf);
    close(fd);
    return rc;
}

void hex_encode(const uint8_t *bytes, size_t n, char *hex)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * n] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *hex, uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int hi = hex_digit(hex[2 * i]);
        int lo = hi < 0 ? -1 : hex_digit(hex[2 * i + 1]);
        if (lo < 0)
            return -1;
        bytes[i] = (uint8_t)(hi << 4 | lo);
    }
    return hex[2 * n] == '\0' ? 0 : -1;
}
