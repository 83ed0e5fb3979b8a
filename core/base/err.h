/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers around tn_err (tenon/error.h), the one error record of the whole system. */
#ifndef CORE_BASE_ERR_H
#define CORE_BASE_ERR_H

#include "tenon/error.h"

struct strbuf;

/* The stable text of a status ("out-of-range"); "unknown" for a number that is not one. */
const char *status_text(int32_t code);

/* Process exit code for a status: 0 done, 1 failed at run time, 2 usage or configuration,
 * 3 a file or plugin was refused, 4 a rank of the run failed. */
int status_exit_code(int32_t code);

/* Fills `err` with code, file, offset (TN_NO_OFFSET: none), field (NULL: none) and message; returns code. */
TN_PRINTF(6, 7)
int32_t err_at(tn_err *err, int32_t code, const char *file, uint64_t offset, const char *field,
               const char *fmt, ...);

/* Fills `err` for a failed system call on `file`: TN_E_NOSPACE for ENOSPC, TN_E_NOTFOUND for ENOENT,
 * TN_E_NOMEM for ENOMEM, else TN_E_IO. `what` is a verb: "open", "read". */
int32_t err_errno(tn_err *err, const char *what, const char *file, int errnum);

/* "out of memory", with the purpose. */
int32_t err_nomem(tn_err *err, const char *what);

/* Sets single fields of an error that is already filled. NULL `err` is allowed. */
void err_file(tn_err *err, const char *file);
void err_field(tn_err *err, const char *field);
void err_plugin(tn_err *err, const char *plugin);
TN_PRINTF(2, 3)
void err_remedy(tn_err *err, const char *fmt, ...);

/* Puts "text: " in front of the message. */
TN_PRINTF(2, 3)
void err_prefix(tn_err *err, const char *fmt, ...);

/* Back to "no error". */
void err_reset(tn_err *err);

/* Appends one line for people: "FILE (offset N, field F): message [code]; try: remedy". */
void err_print(const tn_err *err, struct strbuf *out);

#endif
