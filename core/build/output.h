/* SPDX-License-Identifier: Apache-2.0 */
/* The directory a build makes: filled under a temporary name beside the final one, then renamed. */
#ifndef CORE_BUILD_OUTPUT_H
#define CORE_BUILD_OUTPUT_H

#include "base/err.h"

struct output {
    char *final; /* where it will stand */
    char *temp;  /* where it is being filled */
};

/* Checks that `path` may be made or replaced and creates the temporary directory. */
int32_t output_open(const char *path, struct output *out, tn_err *err);

/* Copies the files that go with the weights (tokenizer, templates, generation_config.json), as they are. */
int32_t output_copy_companions(const struct output *out, const char *model, tn_err *err);

/* Puts the directory in place; an engine that stood there is removed after the new one stands. If that fails, the
 * build has succeeded all the same, and a warning names what is left. */
int32_t output_commit(struct output *out, tn_err *err);

/* Removes the temporary directory if it was not committed. A zeroed output is allowed. */
void output_release(struct output *out);

#endif
