/* SPDX-License-Identifier: Apache-2.0 */
/* Digests. XXH3-128 finds accidental damage of engine files at memory speed; SHA-256 identifies
 * plugins and inputs, where somebody may have an interest in a collision. */
#ifndef CORE_BASE_DIGEST_H
#define CORE_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define XXH128_BYTES 16
#define SHA256_BYTES 32
#define SHA256_HEX 65 /* with the NUL */

struct xxh128;

int32_t xxh128_new(struct xxh128 **out, tn_err *err);
void xxh128_update(struct xxh128 *x, const void *data, size_t n);
/* Canonical (big-endian) digest of what was given so far. */
void xxh128_final(const struct xxh128 *x, uint8_t out[XXH128_BYTES]);
void xxh128_reset(struct xxh128 *x);
void xxh128_free(struct xxh128 *x);
void xxh128_of(const void *data, size_t n, uint8_t out[XXH128_BYTES]);

void sha256_of(const void *data, size_t n, uint8_t out[SHA256_BYTES]);
int32_t sha256_file(const char *path, uint8_t out[SHA256_BYTES], tn_err *err);

/* Lower-case hex with NUL; `hex` has room for 2 * n + 1. */
void hex_encode(const uint8_t *bytes, size_t n, char *hex);
/* 0 if `hex` is exactly 2 * n hex digits, else -1. */
int hex_decode(const char *hex, uint8_t *bytes, size_t n);

#endif
