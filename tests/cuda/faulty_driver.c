// A driver with a fault, in front of the real one (LD_PRELOAD). CUDA's runtime asks for the
// driver's functions by name: it gets those of this file where FAULT says so.
//   old   the driver is for CUDA 12.4
//   ipc   the memory of another process cannot be mapped, as between containers
//   room  much more memory is free than any card has
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// As cuda.h has them, which calls some by other names.
static int driver_version(int *version) {
  *version = 12040;
  return 0;
}
static int open_memory(void) { return 400; }  // CUDA_ERROR_INVALID_HANDLE
static int memory_info(size_t *free, size_t *total) {
  *free = *total = (size_t)1 << 60;
  return 0;
}

static int starts(const char *name, const char *with) {
  return strncmp(name, with, strlen(with)) == 0;
}
static void *faulty(const char *name) {  // null: the driver's own
  const char *fault = getenv("FAULT");
  if (fault == NULL) return NULL;
  if (strcmp(fault, "old") == 0 && starts(name, "cuDriverGetVersion")) return driver_version;
  if (strcmp(fault, "ipc") == 0 && starts(name, "cuIpcOpenMemHandle")) return open_memory;
  if (strcmp(fault, "room") == 0 && starts(name, "cuMemGetInfo")) return memory_info;
  return NULL;
}

// cuGetProcAddress, through which newer runtimes ask: also for itself.
static int (*real_address)(const char *, void **, int, uint64_t, void *);
static int address(const char *name, void **found, int version, uint64_t flags, void *status) {
  const int code = real_address(name, found, version, flags, status);
  if (code == 0 && strcmp(name, "cuGetProcAddress") == 0 && version >= 12000) *found = address;
  if (code == 0 && faulty(name) != NULL) *found = faulty(name);
  return code;
}

void *dlsym(void *library, const char *name) {
  static void *(*real)(void *, const char *);
  static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
  for (size_t i = 0; real == NULL && i < sizeof versions / sizeof *versions; ++i)
    *(void **)&real = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
  void *found = real(library, name);
  if (found == NULL || !starts(name, "cu")) return found;
  if (strcmp(name, "cuGetProcAddress_v2") == 0) {
    *(void **)&real_address = found;
    return address;
  }
  return faulty(name) != NULL ? faulty(name) : found;
}
