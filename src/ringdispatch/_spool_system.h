/* What a spool asks of the system: locks, mappings, blocks. On Linux only. */

#include <errno.h>
#include <stdint.h>

enum { NOT_PLAIN = -1, NOT_OURS = -2, LINKED = -3, MOVED = -4, TOO_SHORT = -5 };

/* Little endian, as everything in a file. */
#if defined(__linux__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SPOOL_SUPPORTED 1

/* Linux 3.15 has them; an older glibc, or one without _GNU_SOURCE, does not name them. */
#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

/* As in <linux/fs.h>, which a C compiler alone does not bring along. */
#define SPOOL_GET_FLAGS _IOR('f', 1, long)
#define SPOOL_SET_FLAGS _IOW('f', 2, long)
#define SPOOL_NO_COPIES 0x00800000 /* FS_NOCOW_FL */

static int spool_lock(int fd, int command, short *type) {
  struct flock lock = {.l_type = *type, .l_whence = SEEK_SET};
  if (fcntl(fd, command, &lock)) return errno == EACCES ? EAGAIN : errno;
  *type = lock.l_type;
  return 0;
}

static int spool_map(int fd, const char *path, char **base, uint64_t *size) {
  struct stat here, there;
  short type = F_WRLCK;
  int error;
  if (fstat(fd, &here)) return errno;
  if (!S_ISREG(here.st_mode)) return NOT_PLAIN;
  if (here.st_uid != geteuid()) return NOT_OURS;
  if (here.st_nlink > 1) return LINKED;
  if ((error = spool_lock(fd, F_OFD_SETLK, &type))) return error;
  /* The process that had the lock until now may have removed or renamed it. */
  if (lstat(path, &there)) return errno == ENOENT ? MOVED : errno;
  if (there.st_dev != here.st_dev || there.st_ino != here.st_ino) return MOVED;
  if (fstat(fd, &here)) return errno;
  if (here.st_size < 4096) return TOO_SHORT;
  if ((uint64_t) here.st_size > SIZE_MAX / 2) return EFBIG;
  *size = here.st_size;
  char *at = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return errno;
  if (madvise(at, *size, MADV_DONTFORK)) {
    error = errno;
    munmap(at, *size);
    return error;
  }
  *base = at;
  return 0;
}

/* Locks and maps the file. The lock belongs to the open file, which the mapping
   keeps open: it ends with the mapping, and nothing else ends it. A forked child
   has neither, as no thread forks while there is a descriptor. */
static int spool_attach(const char *path, char **base, uint64_t *size) {
  int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno == ELOOP ? NOT_PLAIN : errno;
  int error = spool_map(fd, path, base, size);
  close(fd);
  return error;
}

/* Linux 5.14 has it; older headers do not, and older kernels refuse it. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static int spool_populate(char *base, uint64_t size) {
  return madvise(base, size, MADV_POPULATE_WRITE) ? errno : 0;
}

static void spool_unmap(char *base, uint64_t size) { munmap(base, size); }

static int spool_allocate(int fd, uint64_t size) {
  return fallocate(fd, 0, 0, size) ? errno : 0;
}

static int spool_filesystem(const char *path, uint64_t *kind) {
  struct statfs found;
  if (statfs(path, &found)) return errno;
  *kind = (uint32_t) found.f_type;
  return 0;
}

static int spool_without_copies(int fd) {
  int flags = 0;
  if (ioctl(fd, SPOOL_GET_FLAGS, &flags)) return errno;
  flags |= SPOOL_NO_COPIES;
  return ioctl(fd, SPOOL_SET_FLAGS, &flags) ? errno : 0;
}

static int spool_is_locked(int fd, int *locked) {
  short type = F_WRLCK;
  int error = spool_lock(fd, F_OFD_GETLK, &type);
  *locked = type != F_UNLCK;
  return error;
}

/* Without waiting; `locked`: 0 unlocks. The lock is of the open file, and a child that
   was forked meanwhile has that open, too: unlocked, it is so for both. */
static int spool_set_lock(int fd, int locked) {
  short type = locked ? F_WRLCK : F_UNLCK;
  return spool_lock(fd, F_OFD_SETLK, &type);
}

#else

#define SPOOL_SUPPORTED 0
#define spool_attach(path, base, size) ENOSYS
#define spool_populate(base, size) ENOSYS
#define spool_unmap(base, size) ((void) 0)
#define spool_allocate(fd, size) ENOSYS
#define spool_filesystem(path, kind) ENOSYS
#define spool_without_copies(fd) ENOSYS
#define spool_is_locked(fd, locked) ENOSYS
#define spool_set_lock(fd, locked) ENOSYS

#endif
