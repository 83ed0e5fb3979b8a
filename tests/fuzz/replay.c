/* SPDX-License-Identifier: Apache-2.0 */
/* Runs every file of the directories named on the command line through a libFuzzer entry point, so that each
 * input that ever mattered is tried in every build, without clang. An absent directory is an error: a
 * replay that replays nothing must not pass. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    long size;

    if (!f || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    data =
        malloc(size > 0 ? (size_t)size : 1); /* exact size, so that ASan sees an overread by one */
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    fclose(f);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    int n = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        const struct dirent *e;
        if (!d) {
            fprintf(stderr, "no corpus at %s\n", argv[i]);
            return EXIT_FAILURE;
        }
        while ((e = readdir(d)) != NULL) {
            char path[4096];
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            failed += replay_file(path);
            n++;
        }
        closedir(d);
    }
    printf("%d inputs replayed\n", n);
    return n > 0 && !failed ? EXIT_SUCCESS : EXIT_FAILURE;
}
