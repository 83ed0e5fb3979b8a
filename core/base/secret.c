/* SPDX-License-Identifier: Apache-2.0 */
#include "base/secret.h"

#include <assert.h>
#include <errno.h>
#include <sodium/crypto_generichash_blake2b.h>
#include <sodium/crypto_verify_32.h>
#include <string.h>
#include <sys/random.h>

void secret_mac(const uint8_t key[SECRET_KEY_BYTES], const void *a, size_t n_a, const void *b,
                size_t n_b, uint8_t mac[SECRET_MAC_BYTES])
{
    crypto_generichash_blake2b_state s;
    int rc = crypto_generichash_blake2b_init(&s, key, key ? SECRET_KEY_BYTES : 0, SECRET_MAC_BYTES);

    assert(rc == 0);
    (void)rc;
    crypto_generichash_blake2b_update(&s, a, n_a);
    if (n_b)
        crypto_generichash_blake2b_update(&s, b, n_b);
    crypto_generichash_blake2b_final(&s, mac, SECRET_MAC_BYTES);
}

void secret_digest(const void *data, size_t n, uint8_t out[SECRET_MAC_BYTES])
{
    secret_mac(NULL, data, n, NULL, 0, out);
}

void secret_from_text(const void *text, size_t n, uint8_t key[SECRET_KEY_BYTES])
{
    secret_digest(text, n, key);
}

void secret_derive(const uint8_t key[SECRET_KEY_BYTES], const char *purpose, const void *data,
                   size_t n, uint8_t out[SECRET_KEY_BYTES])
{
    secret_mac(key, purpose, strlen(purpose) + 1, data, n, out);
}

bool secret_equal(const uint8_t a[SECRET_MAC_BYTES], const uint8_t b[SECRET_MAC_BYTES])
{
    return crypto_verify_32(a, b) == 0;
}

int32_t secret_random(void *out, size_t n, tn_err *err)
{
    uint8_t *at = out;

    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0 && errno != EINTR)
            return err_errno(err, "read", "random numbers", errno);
        if (got > 0) {
            at += got;
            n -= (size_t)got;
        }
    }
    return TN_OK;
}
