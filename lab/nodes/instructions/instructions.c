/*
 * A plugin for QEMU (docs/devel/tcg-plugins in its source): counts the instructions that the machine executes, and tells their number,
 * as decimal digits, to whoever connects to a unix socket. Its one argument is the socket's path: -plugin instructions.so,socket=PATH
 *
 * The declarations are those of version 2 of QEMU's plugin interface, which QEMU 9.0 and later know. No package has its header.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct {
    struct qemu_plugin_scoreboard *score;
    size_t offset;
} qemu_plugin_u64;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
struct qemu_plugin_tb;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
uint64_t qemu_plugin_u64_sum(qemu_plugin_u64 entry);
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *tb, enum qemu_plugin_op op, qemu_plugin_u64 entry, uint64_t imm);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, unsigned int vcpu));

int qemu_plugin_version = 2;

static qemu_plugin_u64 executed;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void block_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, QEMU_PLUGIN_INLINE_ADD_U64, executed, qemu_plugin_tb_n_insns(tb));
}

static void *tell(void *unused)
{
    int asked = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(address.sun_path);
    if (bind(asked, (struct sockaddr *)&address, sizeof address) || listen(asked, 1)) {
        perror(address.sun_path);
        return NULL;
    }
    for (;;) {
        int caller = accept(asked, NULL, NULL);
        if (caller >= 0) {
            dprintf(caller, "%" PRIu64 "\n", qemu_plugin_u64_sum(executed));
            close(caller);
        }
    }
}

/* Not before the first processor: a thread that was started earlier would not be in the process to which QEMU forks as a daemon. */
static void processor_made(qemu_plugin_id_t id, unsigned int vcpu)
{
    pthread_t thread;
    if (vcpu == 0 && pthread_create(&thread, NULL, tell, NULL) == 0)
        pthread_detach(thread);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    if (argc != 1 || strncmp(argv[0], "socket=", 7) || strlen(argv[0] + 7) >= sizeof address.sun_path) {
        fprintf(stderr, "give socket=PATH, of at most %zu bytes\n", sizeof address.sun_path - 1);
        return -1;
    }
    strcpy(address.sun_path, argv[0] + 7);
    executed.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
    qemu_plugin_register_vcpu_init_cb(id, processor_made);
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    return 0;
}
