/* SPDX-License-Identifier: Apache-2.0 */
/* Small engines for tests, built through the same door as `tenon build`. */
#ifndef TESTS_API_ENGINES_H
#define TESTS_API_ENGINES_H

/* Writes a llama config.json with random weights in mind and builds an engine of it in `dir`/engine. */
void build_dummy_engine(const char *dir, const char *dtype);

/* Builds an engine of a checkpoint of the source tree in `dir`/engine. */
void build_engine_of(const char *model, const char *dir, const char *dtype);

#endif
