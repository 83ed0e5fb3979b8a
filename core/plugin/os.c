/* SPDX-License-Identifier: Apache-2.0 */
/* The one file of this room that needs GNU extensions of the C library: affinity, memfd, dladdr. */
#define _GNU_SOURCE
#include "plugin/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

/* The mask of the thread that loads the library may have been narrowed by the embedder on purpose: it is what
 * "this process may run on" means here. Kernels with more than 1024 CPUs need a larger set. */
enum { MAX_CPUS = 8192 };

static cpu_set_t *affinity(size_t *bytes)
{
    cpu_set_t *set = mem_zalloc(CPU_ALLOC_SIZE(MAX_CPUS));

    *bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    if (set && sched_getaffinity(0, *bytes, set) == 0)
        return set;
    mem_free(set);
    return NULL;
}

uint32_t os_cpu_count(void)
{
    size_t bytes;
    cpu_set_t *set = affinity(&bytes);
    int n = set ? CPU_COUNT_S(bytes, set) : 1;

    mem_free(set);
    return n > 0 ? (uint32_t)n : 1;
}

int32_t os_cpu_at(uint32_t index)
{
    size_t bytes;
    cpu_set_t *set = affinity(&bytes);
    int32_t found = -1;

    for (int i = 0; set && found < 0 && i < MAX_CPUS; i++)
        if (CPU_ISSET_S((size_t)i, bytes, set) && index-- == 0)
            found = i;
    mem_free(set);
    return found;
}

bool os_amx_granted(void)
{
#if defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM_ = 0x1023, XFEATURE_XTILEDATA_ = 18 };

    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, XFEATURE_XTILEDATA_) == 0;
#else
    return false;
#endif
}

int os_thread_start(const char *name, int32_t cpu, void *(*fn)(void *), void *arg, pthread_t *out)
{
    char text[16];
    pthread_attr_t attr;
    sigset_t all, before;
    cpu_set_t *set = NULL;
    int rc = pthread_attr_init(&attr);

    if (rc != 0)
        return rc;
    if (cpu >= 0 && cpu < MAX_CPUS) {
        set = mem_zalloc(CPU_ALLOC_SIZE(MAX_CPUS));
        if (!set) {
            rc = ENOMEM;
            goto done;
        }
        CPU_SET_S((size_t)cpu, CPU_ALLOC_SIZE(MAX_CPUS), set);
        rc = pthread_attr_setaffinity_np(&attr, CPU_ALLOC_SIZE(MAX_CPUS), set);
        if (rc != 0)
            goto done;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(out, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0 && name) {
        snprintf(text, sizeof text, "%s", name);
        pthread_setname_np(*out, text);
    }
done:
    mem_free(set);
    pthread_attr_destroy(&attr);
    return rc;
}

int32_t os_sealed_copy(const char *name, const void *data, size_t n, int *fd, tn_err *err)
{
    int f = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int32_t rc;

    if (f < 0)
        return err_errno(err, "make a file in memory for", name, errno);
    rc = file_write_all(f, name, data, n, err);
    if (rc == TN_OK &&
        fcntl(f, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
        rc = err_errno(err, "seal the copy of", name, errno);
    if (rc != TN_OK) {
        close(f);
        return rc;
    }
    *fd = f;
    return TN_OK;
}

int32_t os_own_dir(char **out, tn_err *err)
{
    char buf[PATH_MAX];
    struct link_map *map = NULL;
    Dl_info info;
    const char *path = NULL;
    char *real, *slash;
    ssize_t n;

    /* The main program's entry in the link map has no name; dladdr would give its argv[0] instead, which
     * whoever started it may choose. */
    if (dladdr1((const void *)(uintptr_t)&os_own_dir, &info, (void **)&map, RTLD_DL_LINKMAP) != 0 &&
        map && map->l_name[0] == '/')
        path = map->l_name;
    if (!path) {
        n = readlink("/proc/self/exe", buf, sizeof buf - 1);
        if (n < 0)
            return err_errno(err, "read", "/proc/self/exe", errno);
        buf[n] = '\0';
        path = buf;
    }
    real = mem_strdup(path);
    if (!real)
        return err_nomem(err, "a file name");
    slash = strrchr(real, '/');
    if (slash)
        *(slash == real ? slash + 1 : slash) = '\0';
    *out = real;
    return TN_OK;
}
