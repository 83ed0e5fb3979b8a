/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file error.h
 * Status codes and the error record, the same in plugins, libtenon, the command line and servers.
 *
 * Functions return TN_OK (zero) or a negative status. A function that takes a ::tn_err fills it on
 * failure; the record lives in the caller's memory, so it outlives the plugin and needs no free.
 * A function that fails leaves its outputs and the state it works on as they were, unless its
 * documentation says otherwise.
 */
#ifndef TENON_ERROR_H
#define TENON_ERROR_H

#include <stdarg.h>
#include <stdio.h>

#include "abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The one list of status codes: X(name, value, stable text, what it means). Numbers never change. */
#define TN_STATUS_LIST(X)                                                                          \
    X(OK, 0, "ok", "no error")                                                                     \
    X(E_INVALID, -1, "invalid-argument", "an argument or request field is not acceptable")         \
    X(E_NOMEM, -2, "out-of-memory", "host memory could not be had")                                \
    X(E_IO, -3, "io", "the operating system refused a file operation; native holds errno")         \
    X(E_FORMAT, -4, "format", "a file's content breaks its format")                                \
    X(E_UNSUPPORTED, -5, "unsupported", "well formed, but this build or plugin cannot do it")      \
    X(E_NOTFOUND, -6, "not-found", "the thing named does not exist")                               \
    X(E_RANGE, -7, "out-of-range", "a number lies outside its documented range")                   \
    X(E_TYPE, -8, "wrong-type", "a value has another type than the field needs")                   \
    X(E_LIMIT, -9, "limit", "a configured or built-in limit would be exceeded")                    \
    X(E_BUSY, -10, "busy", "try again later: queue full or object in use")                         \
    X(E_CANCELED, -11, "canceled", "the caller or the operator ended it")                          \
    X(E_TIMEOUT, -12, "timeout", "a deadline passed")                                              \
    X(E_REFUSED, -13, "refused", "a plugin was judged unfit to load")                              \
    X(E_ABI, -14, "abi-mismatch", "versions or layouts of host and plugin do not fit")             \
    X(E_VERSION, -15, "version", "a file was written by a newer or foreign program")               \
    X(E_DIGEST, -16, "digest-mismatch", "content does not match its recorded digest")              \
    X(E_DEVICE, -17, "device", "a device call failed; native holds its code")                      \
    X(E_COMM, -18, "comm", "communication between ranks failed")                                   \
    X(E_NAN, -19, "not-a-number", "a computation produced NaN or infinity")                        \
    X(E_EXISTS, -20, "exists", "the thing to be made is already there")                            \
    X(E_CONFIG, -21, "config", "a configuration file or flag is not acceptable")                   \
    X(E_UNIMPLEMENTED, -22, "unimplemented", "an optional function is absent")                     \
    X(E_CLOSED, -23, "closed", "the object was closed")                                            \
    X(E_NOSPACE, -24, "no-space", "a device or a file system is full")                             \
    X(E_INTERNAL, -25, "internal", "a bug in Tenon; please report it")

enum tn_status {
#define TN_STATUS_ENUM(name, value, text, meaning) TN_##name = (value),
    TN_STATUS_LIST(TN_STATUS_ENUM)
#undef TN_STATUS_ENUM
};

/** `offset` of an error that concerns no place in a file. */
#define TN_NO_OFFSET UINT64_MAX

/** What went wrong, where, and what to change. All strings are NUL-terminated, empty if unknown. */
typedef struct tn_err {
    tn_hdr h;
    int32_t code;     /**< a ::tn_status */
    int32_t native;   /**< errno, CUresult, ncclResult_t, ... or 0 */
    uint64_t offset;  /**< byte offset (or line, for text files) in `file`, or ::TN_NO_OFFSET */
    char plugin[64];  /**< the plugin at fault */
    char file[512];   /**< the file concerned */
    char field[128];  /**< field, flag, tensor or key concerned */
    char msg[512];    /**< cause, with the value seen */
    char remedy[256]; /**< what to change */
} tn_err;

TN_STATIC_ASSERT(sizeof(tn_err) == 1496, "tn_err is frozen within major 1");

/** An error record that says "no error". */
#define TN_ERR_INIT                                                                                \
    {                                                                                              \
        TN_HDR(tn_err), TN_OK, 0, TN_NO_OFFSET, "", "", "", "", ""                                 \
    }

/**
 * Fills `err` (which may be NULL) with `code` and a printf-style message and returns `code`, so
 * that `return tn_err_set(err, TN_E_RANGE, "...")` is one statement. Other fields are kept.
 */
TN_PRINTF(3, 4)
static inline int32_t tn_err_set(tn_err *err, int32_t code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        err->code = code;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
    }
    return code;
}

#ifdef __cplusplus
}
#endif
#endif
