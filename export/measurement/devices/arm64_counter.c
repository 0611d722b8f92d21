/* Counts the instructions and the memory reads that an emulated program executes in its first thread.
 *
 * This is a plugin of QEMU's user-mode emulator. The emulated program talks to it by writes to two file descriptors, which may
 * lead anywhere. A write to START starts the counting, so that the program's own start is emulated at full speed. A write to
 * MARK adds a line with the two counts so far to the file that the plugin's argument "out" names. A read of more than 8 bytes
 * counts as one read for each 8 bytes, because some versions of QEMU split it.
 *
 * Only those functions of the plugin interface are declared here that QEMU has had since version 6, in which the interface
 * became complete. Compile with -DPLUGIN_API=1 for QEMU before 8.2, and with -DPLUGIN_API=2 for later versions.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { START = 199, MARK = 200, WRITE = 64 }; /* WRITE is the number of the system call write on 64-bit Arm. */
enum { NO_REGISTERS = 0 };
enum { READS = 1, WRITES = 2 };

struct plugin_block;
struct plugin_instruction;

typedef void (*on_block_translated)(uint64_t plugin, struct plugin_block *block);
typedef void (*on_block_executed)(unsigned cpu, void *data);
typedef void (*on_memory_access)(unsigned cpu, uint32_t access, uint64_t address, void *data);
typedef void (*on_system_call)(uint64_t plugin, unsigned cpu, int64_t number, uint64_t first, uint64_t second, uint64_t third,
                               uint64_t fourth, uint64_t fifth, uint64_t sixth, uint64_t seventh, uint64_t eighth);

extern void qemu_plugin_reset(uint64_t plugin, void (*after)(uint64_t plugin));
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, on_block_translated function);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct plugin_block *block, on_block_executed function, int flags, void *data);
extern void qemu_plugin_register_vcpu_mem_cb(struct plugin_instruction *instruction, on_memory_access function, int flags,
                                             int kinds, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(uint64_t plugin, on_system_call function);
extern size_t qemu_plugin_tb_n_insns(const struct plugin_block *block);
extern struct plugin_instruction *qemu_plugin_tb_get_insn(const struct plugin_block *block, size_t index);
extern bool qemu_plugin_mem_is_store(uint32_t access);
extern unsigned qemu_plugin_mem_size_shift(uint32_t access);

EXPORT int qemu_plugin_version = PLUGIN_API;

static uint64_t instructions, reads;
static bool started;
static FILE *out;

static void count_instructions(unsigned cpu, void *data)
{
    if (cpu == 0) {
        instructions += (uintptr_t)data;
    }
}

static void count_reads(unsigned cpu, uint32_t access, uint64_t address, void *data)
{
    unsigned bytes = 1u << qemu_plugin_mem_size_shift(access);

    (void)address;
    (void)data;
    /* Reads are told apart here, because QEMU 7.2 reports no read to a function that is registered for reads only. */
    if (cpu == 0 && !qemu_plugin_mem_is_store(access)) {
        reads += bytes > 8 ? bytes / 8 : 1;
    }
}

static void instrument(uint64_t plugin, struct plugin_block *block)
{
    size_t count = qemu_plugin_tb_n_insns(block);

    (void)plugin;
    qemu_plugin_register_vcpu_tb_exec_cb(block, count_instructions, NO_REGISTERS, (void *)(uintptr_t)count);
    for (size_t index = 0; index < count; index++) {
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(block, index), count_reads, NO_REGISTERS, READS | WRITES, NULL);
    }
}

static void on_write(uint64_t plugin, unsigned cpu, int64_t number, uint64_t first, uint64_t second, uint64_t third,
                     uint64_t fourth, uint64_t fifth, uint64_t sixth, uint64_t seventh, uint64_t eighth);

static void start(uint64_t plugin)
{
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, instrument);
    qemu_plugin_register_vcpu_syscall_cb(plugin, on_write);
}

static void on_write(uint64_t plugin, unsigned cpu, int64_t number, uint64_t first, uint64_t second, uint64_t third,
                     uint64_t fourth, uint64_t fifth, uint64_t sixth, uint64_t seventh, uint64_t eighth)
{
    (void)second, (void)third, (void)fourth, (void)fifth, (void)sixth, (void)seventh, (void)eighth;
    if (cpu != 0 || number != WRITE) {
        return;
    }
    if (first == START && !started) {
        started = true;
        qemu_plugin_reset(plugin, start); /* All code is translated anew, with the callbacks that count. */
    }
    if (first == MARK) {
        fprintf(out, "%" PRIu64 " %" PRIu64 "\n", instructions, reads);
        fflush(out);
    }
}

EXPORT int qemu_plugin_install(uint64_t plugin, const void *emulator, int argc, char **argv)
{
    (void)emulator;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || (out = fopen(argv[0] + 4, "w")) == NULL) {
        fprintf(stderr, "the counting plugin needs the argument out=FILE, a file that can be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_syscall_cb(plugin, on_write);
    return 0;
}
