/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF-64 (System V gABI, chapters 4 and 5; the notes' layout as binutils writes it). All numbers come from outside:
 * every sum is checked, every table lies inside the file part of a segment before it is read.
 */
#include "plugin/elf.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/limits.h"

#if defined(__x86_64__)
#define HOST_MACHINE EM_X86_64
#define HOST_MACHINE_NAME "x86-64"
#define RELOC_RELATIVE R_X86_64_RELATIVE
#elif defined(__aarch64__)
#define HOST_MACHINE EM_AARCH64
#define HOST_MACHINE_NAME "aarch64"
#define RELOC_RELATIVE R_AARCH64_RELATIVE
#else
#error "add this machine's ELF constants"
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HOST_DATA ELFDATA2LSB
#else
#define HOST_DATA ELFDATA2MSB
#endif

#define PAGE UINT64_C(4096)
#define MAX_SPAN (4 * LIMIT_PLUGIN_BYTES) /* of addresses; also keeps their sums from overflowing */

/* offset UINT64_MAX: no particular place. */
TN_PRINTF(4, 5)
static int32_t broken(const struct elf *e, uint64_t offset, tn_err *err, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_at(err, TN_E_FORMAT, e->file, offset, NULL, "%s", text);
}

TN_PRINTF(4, 5)
static int32_t refuse(const struct elf *e, tn_err *err, const char *remedy, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_at(err, TN_E_REFUSED, e->file, TN_NO_OFFSET, NULL, "%s", text);
    err_remedy(err, "%s", remedy);
    return TN_E_REFUSED;
}

static bool inside(const struct elf *e, uint64_t offset, uint64_t n)
{
    uint64_t end;

    return checked_add(offset, n, &end) && end <= e->size;
}

/* -- Headers ---------------------------------------------------------------------------------------- */

static const char *machine_name(uint16_t machine)
{
    switch (machine) {
    case EM_X86_64: return "x86-64";
    case EM_AARCH64: return "aarch64";
    case EM_386: return "i386";
    case EM_ARM: return "arm";
    case EM_RISCV: return "riscv";
    case EM_PPC64: return "ppc64";
    case EM_S390: return "s390";
    default: return "another machine";
    }
}

static int32_t check_ident(const struct elf *e, const Elf64_Ehdr *h, tn_err *err)
{
    const unsigned char *id = h->e_ident;

    if (memcmp(id, ELFMAG, SELFMAG) != 0)
        return broken(e, 0, err, "is not an ELF file");
    if (id[EI_CLASS] != ELFCLASS64)
        return broken(e, EI_CLASS, err, "is not a 64-bit ELF file (class %u)", id[EI_CLASS]);
    if (id[EI_DATA] != HOST_DATA)
        return broken(e, EI_DATA, err, "has the wrong byte order (%u)", id[EI_DATA]);
    if (id[EI_VERSION] != EV_CURRENT || h->e_version != EV_CURRENT)
        return broken(e, EI_VERSION, err, "has an unknown ELF version");
    if ((id[EI_OSABI] != ELFOSABI_NONE && id[EI_OSABI] != ELFOSABI_GNU) || id[EI_ABIVERSION] != 0)
        return broken(e, EI_OSABI, err, "is made for another operating system (OS ABI %u, %u)",
                      id[EI_OSABI], id[EI_ABIVERSION]);
    return TN_OK;
}

static int32_t read_header(struct elf *e, tn_err *err)
{
    Elf64_Ehdr h;
    int32_t rc;

    if (e->size < sizeof h)
        return broken(e, e->size, err, "ends within the ELF header (%" PRIu64 " bytes)", e->size);
    memcpy(&h, e->data, sizeof h);
    rc = check_ident(e, &h, err);
    if (rc != TN_OK)
        return rc;
    if (h.e_machine != HOST_MACHINE)
        return broken(e, offsetof(Elf64_Ehdr, e_machine), err,
                      "is made for %s (ELF machine %u); this is %s", machine_name(h.e_machine),
                      h.e_machine, HOST_MACHINE_NAME);
    if (h.e_type != ET_DYN)
        return broken(e, offsetof(Elf64_Ehdr, e_type), err, "is no shared object (ELF type %u)",
                      h.e_type);
    if (h.e_ehsize != sizeof h || h.e_phentsize != sizeof(Elf64_Phdr))
        return broken(e, offsetof(Elf64_Ehdr, e_ehsize), err, "has headers of unknown size");
    if (h.e_phnum == 0 || h.e_phnum > ELF_MAX_SEGMENTS)
        return broken(e, offsetof(Elf64_Ehdr, e_phnum), err, "has %u program headers; 1 to %d fit",
                      h.e_phnum, ELF_MAX_SEGMENTS);
    if (!inside(e, h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr)))
        return broken(e, offsetof(Elf64_Ehdr, e_phoff), err,
                      "ends before its program headers at %" PRIu64, h.e_phoff);
    e->n_segments = h.e_phnum;
    memcpy(e->segments, e->data + h.e_phoff, (size_t)h.e_phnum * sizeof(Elf64_Phdr));
    return TN_OK;
}

/* -- Segments --------------------------------------------------------------------------------------- */

static const Elf64_Phdr *next_segment(const struct elf *e, uint32_t type, const Elf64_Phdr *after)
{
    const Elf64_Phdr *end = e->segments + e->n_segments;

    for (const Elf64_Phdr *p = after ? after + 1 : e->segments; p < end; p++)
        if (p->p_type == type)
            return p;
    return NULL;
}

/* The PT_LOAD whose memory holds [addr, addr + n); NULL if none does. */
static const Elf64_Phdr *load_of(const struct elf *e, uint64_t addr, uint64_t n)
{
    for (const Elf64_Phdr *p = NULL; (p = next_segment(e, PT_LOAD, p)) != NULL;)
        if (addr >= p->p_vaddr && addr - p->p_vaddr <= p->p_memsz &&
            n <= p->p_memsz - (addr - p->p_vaddr))
            return p;
    return NULL;
}

/* Where [addr, addr + n) lies in the file; false if a part of it does not. */
static bool file_offset(const struct elf *e, uint64_t addr, uint64_t n, uint64_t *offset)
{
    const Elf64_Phdr *p = load_of(e, addr, n);

    if (!p || addr - p->p_vaddr > p->p_filesz || n > p->p_filesz - (addr - p->p_vaddr))
        return false;
    *offset = p->p_offset + (addr - p->p_vaddr);
    return true;
}

static bool is_power_of_two(uint64_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

static int32_t check_load(const struct elf *e, const Elf64_Phdr *p, uint32_t number, tn_err *err)
{
    if (!inside(e, p->p_offset, p->p_filesz))
        return broken(e, p->p_offset, err,
                      "is truncated: segment %u ends at %" PRIu64 ", the file at %" PRIu64, number,
                      p->p_offset + p->p_filesz, e->size);
    if (p->p_filesz > p->p_memsz || p->p_memsz > MAX_SPAN || p->p_vaddr > MAX_SPAN)
        return broken(e, p->p_offset, err, "segment %u has impossible sizes", number);
    if (!is_power_of_two(p->p_align) || p->p_align < PAGE ||
        (p->p_vaddr - p->p_offset) % p->p_align != 0)
        return broken(e, p->p_offset, err, "segment %u is not aligned", number);
    if ((p->p_flags & ~(uint32_t)(PF_R | PF_W | PF_X)) != 0 || (p->p_flags & PF_R) == 0)
        return broken(e, p->p_offset, err, "segment %u has unknown access rights %#x", number,
                      p->p_flags);
    if ((p->p_flags & PF_W) == 0 && p->p_filesz != p->p_memsz)
        return broken(e, p->p_offset, err, "segment %u is read-only but larger than its data",
                      number);
    if ((p->p_flags & PF_W) && (p->p_flags & PF_X))
        return refuse(e, err, "link it with -z separate-code and without -z execstack or -N",
                      "has a segment that is writable and executable");
    return TN_OK;
}

/* In the file and in memory one behind the other, without holes that a whole segment could have left. */
static int32_t check_order(const struct elf *e, const Elf64_Phdr *before, const Elf64_Phdr *p,
                           uint32_t number, tn_err *err)
{
    uint64_t end = before->p_offset + before->p_filesz;

    if (p->p_vaddr / PAGE < ceil_div(before->p_vaddr + before->p_memsz, PAGE) || p->p_offset < end)
        return broken(e, p->p_offset, err, "segment %u overlaps the one before", number);
    if (p->p_offset - end >= p->p_align)
        return broken(e, p->p_offset, err, "something is missing before segment %u", number);
    return TN_OK;
}

static int32_t check_loads(const struct elf *e, tn_err *err)
{
    const Elf64_Phdr *before = NULL;
    uint32_t number = 0;

    for (const Elf64_Phdr *p = NULL; (p = next_segment(e, PT_LOAD, p)) != NULL; number++) {
        int32_t rc = check_load(e, p, number, err);
        if (rc == TN_OK && before)
            rc = check_order(e, before, p, number, err);
        if (rc == TN_OK && !before && p->p_offset != 0)
            rc = broken(e, p->p_offset, err, "its first segment lacks the ELF header");
        if (rc != TN_OK)
            return rc;
        before = p;
    }
    return before ? TN_OK : broken(e, TN_NO_OFFSET, err, "has nothing to load");
}

/* TLS and RELRO describe parts of loaded segments. */
static int32_t check_part(const struct elf *e, const Elf64_Phdr *p, const char *name, tn_err *err)
{
    const Elf64_Phdr *load = load_of(e, p->p_vaddr, p->p_filesz);

    if (p->p_filesz > p->p_memsz || p->p_memsz > MAX_SPAN || !load ||
        p->p_offset < load->p_offset || p->p_offset - load->p_offset != p->p_vaddr - load->p_vaddr)
        return broken(e, p->p_offset, err, "its %s segment lies outside of what is loaded", name);
    return TN_OK;
}

static int32_t check_special(const struct elf *e, tn_err *err)
{
    const Elf64_Phdr *stack = next_segment(e, PT_GNU_STACK, NULL);
    const Elf64_Phdr *tls = next_segment(e, PT_TLS, NULL);
    const Elf64_Phdr *relro = next_segment(e, PT_GNU_RELRO, NULL);
    const Elf64_Phdr *load;
    int32_t rc = TN_OK;

    if (next_segment(e, PT_INTERP, NULL))
        return broken(e, TN_NO_OFFSET, err, "is a program, not a shared object");
    if (!stack || (stack->p_flags & PF_X))
        return refuse(e, err, "link it with -z noexecstack", "asks for an executable stack");
    if (tls)
        rc = check_part(e, tls, "TLS", err);
    if (rc == TN_OK && tls && (!is_power_of_two(tls->p_align) || tls->p_align > PAGE))
        rc = broken(e, tls->p_offset, err, "its TLS segment is not aligned");
    if (rc == TN_OK && relro)
        rc = check_part(e, relro, "RELRO", err);
    if (rc != TN_OK || !relro)
        return rc;
    load = load_of(e, relro->p_vaddr, 1);
    if (!load || !(load->p_flags & PF_W) || load->p_vaddr != relro->p_vaddr ||
        relro->p_memsz > align_up(load->p_memsz, PAGE))
        return broken(e, relro->p_offset, err, "its RELRO segment does not begin the data");
    return TN_OK;
}

/* -- The dynamic table ------------------------------------------------------------------------------- */

static Elf64_Dyn dyn_at(const struct elf *e, uint64_t index)
{
    Elf64_Dyn d;

    memcpy(&d, e->data + e->dynamic + index * sizeof d, sizeof d);
    return d;
}

/* The value of the first entry with that tag. */
static bool dyn_find(const struct elf *e, int64_t tag, uint64_t *value)
{
    for (uint64_t i = 0; i < e->n_dynamic; i++) {
        Elf64_Dyn d = dyn_at(e, i);
        if (d.d_tag == tag) {
            *value = d.d_un.d_val;
            return true;
        }
    }
    return false;
}

static int32_t find_dynamic(struct elf *e, tn_err *err)
{
    const Elf64_Phdr *p = next_segment(e, PT_DYNAMIC, NULL);
    const Elf64_Phdr *load;
    uint64_t n;

    if (!p)
        return broken(e, TN_NO_OFFSET, err, "has no dynamic table");
    load = load_of(e, p->p_vaddr, p->p_filesz);
    if (!file_offset(e, p->p_vaddr, p->p_filesz, &e->dynamic) || e->dynamic != p->p_offset ||
        p->p_filesz != p->p_memsz || !(load->p_flags & PF_W) || p->p_vaddr % 8 != 0)
        return broken(e, p->p_offset, err, "its dynamic table lies outside of what is loaded");
    n = p->p_filesz / sizeof(Elf64_Dyn);
    while (e->n_dynamic < n && dyn_at(e, e->n_dynamic).d_tag != DT_NULL)
        e->n_dynamic++;
    if (e->n_dynamic == n)
        return broken(e, p->p_offset, err, "its dynamic table has no end");
    return TN_OK;
}

static int32_t find_strings(struct elf *e, tn_err *err)
{
    uint64_t addr, n;

    if (!dyn_find(e, DT_STRTAB, &addr) || !dyn_find(e, DT_STRSZ, &n) || n == 0 ||
        !file_offset(e, addr, n, &e->strings) || e->data[e->strings + n - 1] != '\0')
        return broken(e, e->dynamic, err, "its string table is missing or damaged");
    e->n_strings = n;
    return TN_OK;
}

/* Tags that make the dynamic linker load or search what nobody has judged. */
static int32_t check_tag(const struct elf *e, const Elf64_Dyn *d, tn_err *err)
{
    switch (d->d_tag) {
    case DT_TEXTREL: return refuse(e, err, "compile it with -fPIC", "has text relocations");
    case DT_RPATH:
    case DT_RUNPATH:
        return refuse(e, err, "link it without -rpath", "brings its own library search path (%s)",
                      d->d_tag == DT_RPATH ? "RPATH" : "RUNPATH");
    case DT_AUDIT:
    case DT_DEPAUDIT:
    case DT_AUXILIARY:
    case DT_FILTER:
        return refuse(e, err, "link it without filters and audit libraries",
                      "is a filter for or audited by another library");
    case DT_PREINIT_ARRAY: return broken(e, e->dynamic, err, "has a pre-initialisation array");
    case DT_REL: return broken(e, e->dynamic, err, "has relocations without addends");
    case DT_NEEDED:
        return d->d_un.d_val < e->n_strings
                   ? TN_OK
                   : broken(e, e->dynamic, err, "the name of a needed library is damaged");
    case DT_FLAGS:
        if (d->d_un.d_val & DF_TEXTREL)
            return refuse(e, err, "compile it with -fPIC", "has text relocations");
        if (d->d_un.d_val & DF_STATIC_TLS)
            return refuse(e, err, "compile it with -ftls-model=global-dynamic",
                          "uses static thread-local storage, of which a process has little");
        return TN_OK;
    case DT_FLAGS_1:
        return d->d_un.d_val & DF_1_PIE
                   ? broken(e, e->dynamic, err, "is a program, not a shared object")
                   : TN_OK;
    default: return TN_OK;
    }
}

/* A table given by address and size entries lies in the file. */
static int32_t check_table(const struct elf *e, int64_t tag, int64_t size_tag, const char *what,
                           uint64_t *offset, uint64_t *size, tn_err *err)
{
    uint64_t addr;

    *offset = *size = 0;
    if (!dyn_find(e, tag, &addr))
        return TN_OK;
    if (!dyn_find(e, size_tag, size) || !file_offset(e, addr, *size, offset))
        return broken(e, e->dynamic, err, "its %s lies outside of what is loaded", what);
    return TN_OK;
}

/* A function or the start of a table: the address lies in a segment with these rights. */
static int32_t check_address(const struct elf *e, int64_t tag, uint32_t rights, const char *what,
                             tn_err *err)
{
    const Elf64_Phdr *p;
    uint64_t addr;

    if (!dyn_find(e, tag, &addr))
        return TN_OK;
    p = load_of(e, addr, 1);
    if (!p || (p->p_flags & rights) != rights)
        return broken(e, e->dynamic, err, "its %s lies outside of what is loaded", what);
    return TN_OK;
}

static bool needs_tls(uint64_t type)
{
#if defined(__x86_64__)
    return type == R_X86_64_DTPMOD64 || type == R_X86_64_DTPOFF64 || type == R_X86_64_TPOFF64 ||
           type == R_X86_64_TLSDESC;
#else
    return type == R_AARCH64_TLS_DTPMOD || type == R_AARCH64_TLS_DTPREL ||
           type == R_AARCH64_TLS_TPREL || type == R_AARCH64_TLSDESC;
#endif
}

/* The linker writes where relocations say; into anything but writable data that is a crash. */
static int32_t check_relocations(const struct elf *e, uint64_t offset, uint64_t size, tn_err *err)
{
    bool tls = next_segment(e, PT_TLS, NULL) != NULL;

    for (uint64_t i = 0; i < size / sizeof(Elf64_Rela); i++) {
        const Elf64_Phdr *p;
        uint64_t type;
        Elf64_Rela r;
        memcpy(&r, e->data + offset + i * sizeof r, sizeof r);
        type = ELF64_R_TYPE(r.r_info);
        p = load_of(e, r.r_offset, 8);
        if (!p || !(p->p_flags & PF_W))
            return broken(e, offset + i * sizeof r, err, "a relocation points outside of its data");
        if (type == RELOC_RELATIVE && !load_of(e, (uint64_t)r.r_addend, 0))
            return broken(e, offset + i * sizeof r, err,
                          "a relocation refers to what is not loaded");
        if (needs_tls(type) && !tls)
            return broken(e, offset + i * sizeof r, err,
                          "a relocation refers to thread-local storage that is missing");
    }
    return TN_OK;
}

static int32_t check_relocation_tables(const struct elf *e, tn_err *err)
{
    static const struct {
        int64_t tag, size_tag;
        const char *what;
    } tables[] = {{DT_RELA, DT_RELASZ, "relocation table"},
                  {DT_JMPREL, DT_PLTRELSZ, "jump relocation table"}};
    uint64_t offset, size, v;
    int32_t rc;

    if ((dyn_find(e, DT_RELAENT, &v) && v != sizeof(Elf64_Rela)) ||
        (dyn_find(e, DT_SYMENT, &v) && v != sizeof(Elf64_Sym)) ||
        (dyn_find(e, DT_PLTREL, &v) && v != DT_RELA))
        return broken(e, e->dynamic, err, "its tables have entries of unknown form");
    for (unsigned i = 0; i < 2; i++) {
        rc = check_table(e, tables[i].tag, tables[i].size_tag, tables[i].what, &offset, &size, err);
        if (rc == TN_OK)
            rc = check_relocations(e, offset, size, err);
        if (rc != TN_OK)
            return rc;
    }
    return check_table(e, DT_RELR, DT_RELRSZ, "relative relocation table", &offset, &size, err);
}

static int32_t check_dynamic(const struct elf *e, tn_err *err)
{
    uint64_t offset, size, n_needed = 0;
    int32_t rc = TN_OK;

    for (uint64_t i = 0; rc == TN_OK && i < e->n_dynamic; i++) {
        Elf64_Dyn d = dyn_at(e, i);
        rc = check_tag(e, &d, err);
        n_needed += d.d_tag == DT_NEEDED;
    }
    if (rc == TN_OK && n_needed > ELF_MAX_NEEDED)
        rc = broken(e, e->dynamic, err, "needs %" PRIu64 " libraries", n_needed);
    if (rc == TN_OK)
        rc = check_relocation_tables(e, err);
    if (rc == TN_OK)
        rc = check_table(e, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, "list of constructors", &offset, &size,
                         err);
    if (rc == TN_OK)
        rc = check_table(e, DT_FINI_ARRAY, DT_FINI_ARRAYSZ, "list of destructors", &offset, &size,
                         err);
    if (rc == TN_OK)
        rc = check_address(e, DT_INIT, PF_R | PF_X, "initialiser", err);
    if (rc == TN_OK)
        rc = check_address(e, DT_FINI, PF_R | PF_X, "finaliser", err);
    if (rc == TN_OK)
        rc = check_address(e, DT_SYMTAB, PF_R, "symbol table", err);
    if (rc == TN_OK)
        rc = check_address(e, DT_GNU_HASH, PF_R, "symbol hash table", err);
    if (rc == TN_OK)
        rc = check_address(e, DT_HASH, PF_R, "symbol hash table", err);
    return rc;
}

int32_t elf_open(const void *data, uint64_t size, const char *file, struct elf *out, tn_err *err)
{
    int32_t rc;

    memset(out, 0, sizeof *out);
    out->data = data;
    out->size = size;
    out->file = file;
    rc = read_header(out, err);
    if (rc == TN_OK)
        rc = check_loads(out, err);
    if (rc == TN_OK)
        rc = check_special(out, err);
    if (rc == TN_OK)
        rc = find_dynamic(out, err);
    if (rc == TN_OK)
        rc = find_strings(out, err);
    if (rc == TN_OK)
        rc = check_dynamic(out, err);
    return rc;
}

const char *elf_needed(const struct elf *e, uint32_t index)
{
    for (uint64_t i = 0; i < e->n_dynamic; i++) {
        Elf64_Dyn d = dyn_at(e, i);
        if (d.d_tag == DT_NEEDED && index-- == 0)
            return (const char *)e->data + e->strings + d.d_un.d_val;
    }
    return NULL;
}

uint64_t elf_init_bytes(const struct elf *e)
{
    uint64_t init = 0, fini = 0;

    dyn_find(e, DT_INIT_ARRAYSZ, &init);
    dyn_find(e, DT_FINI_ARRAYSZ, &fini);
    return init > fini ? init : fini;
}

/* -- Notes ---------------------------------------------------------------------------------------------- */

struct note_search {
    const char *name;
    uint32_t type;
    const uint8_t *desc;
    uint64_t desc_size;
};

/* Walks one PT_NOTE segment. */
static int32_t search_segment(const struct elf *e, const Elf64_Phdr *p, struct note_search *s,
                              tn_err *err)
{
    uint64_t align = p->p_align == 8 ? 8 : 4;
    uint64_t at = p->p_offset, end;

    if (!inside(e, at, p->p_filesz))
        return broken(e, at, err, "is truncated: a note segment lies outside of the file");
    end = at + p->p_filesz;
    while (end - at >= sizeof(Elf64_Nhdr)) {
        uint64_t name, desc, next;
        Elf64_Nhdr h;
        memcpy(&h, e->data + at, sizeof h);
        name = at + sizeof h;
        if (!checked_align(name - p->p_offset + h.n_namesz, align, &desc) ||
            !checked_align(desc + h.n_descsz, align, &next) || desc + h.n_descsz > p->p_filesz)
            return broken(e, at, err, "a note is longer than its segment");
        desc += p->p_offset;
        if (h.n_type == s->type && h.n_namesz == strlen(s->name) + 1 &&
            memcmp(e->data + name, s->name, h.n_namesz) == 0) {
            if (s->desc)
                return broken(e, at, err, "has two %s notes", s->name);
            s->desc = e->data + desc;
            s->desc_size = h.n_descsz;
        }
        if (next >= p->p_filesz)
            break;
        at = p->p_offset + next;
    }
    return TN_OK;
}

int32_t elf_find_note(const struct elf *e, const char *name, uint32_t type, const uint8_t **desc,
                      uint64_t *desc_size, tn_err *err)
{
    struct note_search s = {name, type, NULL, 0};

    for (const Elf64_Phdr *p = NULL; (p = next_segment(e, PT_NOTE, p)) != NULL;) {
        int32_t rc = search_segment(e, p, &s, err);
        if (rc != TN_OK)
            return rc;
    }
    if (!s.desc)
        return err_at(err, TN_E_NOTFOUND, e->file, TN_NO_OFFSET, NULL, "has no %s note", name);
    *desc = s.desc;
    *desc_size = s.desc_size;
    return TN_OK;
}
