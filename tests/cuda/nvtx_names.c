// In a profiler's place (NVTX_INJECTION64_PATH): the ranges that each process opens, a name a line,
// and an empty line for each that it closes, in the file $NVTX_NAMES.PROCESS.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *file;

static int push(const char *name) { return fprintf(file, "%s\n", name); }
static int pop(void) { return fprintf(file, "\n"); }

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t table_of) {
  const NvtxExportTableCallbacks *callbacks = table_of(NVTX_ETID_CALLBACKS);
  NvtxFunctionTable table = NULL;
  unsigned int count = 0;
  char path[4096];
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &count))
    return 0;
  snprintf(path, sizeof path, "%s.%d", getenv("NVTX_NAMES"), (int)getpid());
  file = fopen(path, "w");
  if (file == NULL || count <= NVTX_CBID_CORE_RangePop) return 0;
  *table[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
  *table[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
  return 1;
}
