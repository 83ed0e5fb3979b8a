/* SPDX-License-Identifier: Apache-2.0 */
/* Shared keys: who knows one can prove it, and that bytes are theirs. Keyed BLAKE2b of libsodium (RFC 7693). Pure but for
 * secret_random; any thread. */
#ifndef CORE_BASE_SECRET_H
#define CORE_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define SECRET_KEY_BYTES 32
#define SECRET_MAC_BYTES 32

/* A key from whatever people wrote down. */
void secret_from_text(const void *text, size_t n, uint8_t key[SECRET_KEY_BYTES]);

/* A key for one purpose and one pair of fresh numbers, so that what was recorded once is worthless later. */
void secret_derive(const uint8_t key[SECRET_KEY_BYTES], const char *purpose, const void *data,
                   size_t n, uint8_t out[SECRET_KEY_BYTES]);

/* Over the bytes of `a`, then of `b` (NULL with n_b 0). */
void secret_mac(const uint8_t key[SECRET_KEY_BYTES], const void *a, size_t n_a, const void *b,
                size_t n_b, uint8_t mac[SECRET_MAC_BYTES]);

/* Compares in a time that does not tell where they differ. */
bool secret_equal(const uint8_t a[SECRET_MAC_BYTES], const uint8_t b[SECRET_MAC_BYTES]);

/* Random bytes of the system. */
int32_t secret_random(void *out, size_t n, tn_err *err);

/* A plain digest of 32 bytes. */
void secret_digest(const void *data, size_t n, uint8_t out[SECRET_MAC_BYTES]);

#endif
