/* Loaded before the C library: kills the process at its KILL_AT-th change below KILL_DIR.
 * A write is cut in its middle; everything else is not done. What was reached is in KILL_LOG.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long done;

static int below(const char *path) {
  const char *dir = getenv("KILL_DIR");
  return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

static const char *path_of(int fd, char *into) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, into, PATH_MAX - 1);
  if (length < 0) return NULL;
  into[length] = 0;
  return into;
}

/* Whether this is the one to die at. */
static int is_last(const char *doing, const char *path) {
  const char *at = getenv("KILL_AT");
  long number = atomic_fetch_add(&done, 1) + 1;
  if (!at || number != atol(at)) return 0;
  FILE *log = fopen(getenv("KILL_LOG"), "a");
  if (log) {
    fprintf(log, "%s %s\n", doing, path + strlen(getenv("KILL_DIR")));
    fclose(log);
  }
  return 1;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
  char buffer[PATH_MAX];
  const char *path = fd > 2 ? path_of(fd, buffer) : NULL;
  if (below(path) && is_last("write", path)) {
    REAL(write)(fd, bytes, count / 2);
    die();
  }
  return REAL(write)(fd, bytes, count);
}

int open64(const char *path, int flags, ...) {
  mode_t mode = 0;
  if (flags & O_CREAT) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
    if (below(path) && is_last("create", path)) die();
  }
  return REAL(open64)(path, flags, mode);
}

int fsync(int fd) {
  char buffer[PATH_MAX];
  const char *path = path_of(fd, buffer);
  if (below(path) && is_last("sync", path)) die();
  return REAL(fsync)(fd);
}

int rename(const char *from, const char *to) {
  if (below(to) && is_last("rename", to)) die();
  return REAL(rename)(from, to);
}

int unlink(const char *path) {
  if (below(path) && is_last("remove", path)) die();
  return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
  if (below(path) && is_last("mkdir", path)) die();
  return REAL(mkdir)(path, mode);
}

int rmdir(const char *path) {
  if (below(path) && is_last("rmdir", path)) die();
  return REAL(rmdir)(path);
}
