/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One build, as its files share it: build.c goes through its steps, settle.c decides what was left open, quantize.c what is
 * quantized, write.c writes, passport.c tells where the engine comes from, verify.c tries what was written.
 *
 * Used by one thread. What fails returns TN_E_... with b->err filled.
 */
#ifndef CORE_BUILD_BUILDING_H
#define CORE_BUILD_BUILDING_H

#include "base/json.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/strbuf.h"
#include "build/build.h"
#include "build/calibrate.h"
#include "build/emit.h"
#include "build/gate.h"
#include "build/output.h"
#include "build/quant.h"
#include "build/stored.h"
#include "engine/meta.h"
#include "engine/names.h"

struct building {
    const struct build_options *o;
    tn_err *err;
    const struct registry_view *plugins;
    char *config_path;
    json_t *config;
    json_t *generation;            /* generation_config.json, or NULL */
    struct checkpoint *checkpoint; /* NULL: dummy */
    struct stored *stored;         /* who reads its quantized matrices; NULL: it has none */
    const char *model_type;
    const tn_model_arch *arch;
    void *instance;
    uint32_t dtype;
    struct emission emission;               /* of the model plugin */
    struct quant *quant;                    /* NULL: nothing is quantized */
    struct emission quantized;              /* with `quant`: the plan that is written */
    struct token_set calib_data, eval_data; /* as the model takes them; none: no ids */
    struct calibration *calib;              /* NULL: none */
    struct gate_result gate;                /* n_targets 0: not asked for */
    char fallback[64]; /* an op that this machine computes in wider arithmetic; "": none */
    bool plain;        /* float16 took the place of FP8 */
    char *base_file;   /* the model as it is, while it is needed */
    struct output output;
    struct progress bar;
    struct engine_meta meta;
};

/* -- build.c ------------------------------------------------------------------------------------------ */

/* The model plugin makes b->emission, in b->dtype. */
int32_t building_emit(struct building *b);

/* The plan that is written. */
const struct emission *building_final(const struct building *b);

/* -- settle.c ----------------------------------------------------------------------------------------- */

int32_t building_choose_dtype(struct building *b);

/* What of the checkpoint is quantized already: b->stored. */
int32_t building_open_stored(struct building *b);

/* b->meta, with the limits that were asked for or fit the model. */
int32_t building_set_limits(struct building *b);

/* TN_E_CONFIG unless the final plan can be cut for each rank. */
int32_t building_check_topology(struct building *b);

/* The data that were given, as the model takes them: b->calib_data, b->eval_data. */
int32_t building_take_data(struct building *b);

/* -- quantize.c --------------------------------------------------------------------------------------- */

/* b->quant and b->quantized, and b->calib unless it is there; nothing if nothing is to be quantized. */
int32_t building_quantize(struct building *b);

/* How calibration runs, on b->base_file. */
struct calibrate_options building_calibrating(const struct building *b);

/* -- passport.c --------------------------------------------------------------------------------------- */

/* The metadata that are final now (meta.h); NULL without memory. */
json_t *building_meta(const struct building *b);

/* -- write.c ------------------------------------------------------------------------------------------ */

/* Writes the plan that is final now as the file `path`. */
int32_t building_write(struct building *b, const char *path);

/* The same as b->base_file, a temporary one of the output's directory. */
int32_t building_write_base(struct building *b);

/* The engine's directory around the file, with the metadata that are final now. */
int32_t building_finish(struct building *b, const char *path);

/* -- verify.c ----------------------------------------------------------------------------------------- */

/* Whether this machine computes FP8; where it does not, says so, or builds the file anew in float16 if that was asked for. */
int32_t building_check_arithmetic(struct building *b, const char *path);

/* Measures what quantization cost, and holds it to the limits that were given. */
int32_t building_check_quality(struct building *b, const char *path);

#endif
