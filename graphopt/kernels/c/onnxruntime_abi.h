/* onnxruntime_abi.h - the part of the onnxruntime C ABI that a generated
 * custom-operator library uses.
 *
 * The onnxruntime wheel carries no headers, so this file states the binary
 * facts it needs by itself.  The runtime hands out one table of function
 * pointers.  Runtimes only ever append to that table, so a slot number, once
 * released, is fixed for good.  We treat the table as a plain array, number
 * the slots we use, and give each a typed inline wrapper (go_*).
 *
 * Never include this next to the header of onnxruntime itself: both define
 * the Ort* type names.
 *
 * Every call that gives back OrtStatus* gives NULL for success; a status that
 * is not NULL belongs to the caller, who frees it (go_release_status) or hands
 * it on by returning it from CreateKernelV2 / KernelComputeV2.
 *
 * C99.
 */
#ifndef GRAPHOPT_ONNXRUNTIME_ABI_H
#define GRAPHOPT_ONNXRUNTIME_ABI_H

#ifdef ORT_API_VERSION
#error "onnxruntime_abi.h and onnxruntime_c_api.h cannot be used together"
#endif

#include <stddef.h>
#include <stdint.h>

/* The API version N came with onnxruntime 1.N.  18 is the lowest that has all
 * the required parts: the in-place callbacks at the end of OrtCustomOp are the
 * newest of them (the newest required table slot, ParallelFor, is of 17).
 * Both GetApi() and OrtCustomOp.version get this number. */
#define GRAPHOPT_ORT_API_VERSION 18u

/* Optional slots: present only when go_runtime_api_version() says so. */
#define GO_ORT_SINCE_TENSOR_DATA 23
#define GO_ORT_SINCE_SHAPE_REFERENCE 24

#if defined(_WIN32)
#define GO_ORT_CALL __stdcall
#define GO_ORT_EXPORT __declspec(dllexport)
#else
#define GO_ORT_CALL
#define GO_ORT_EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define GO_ORT_INLINE static inline __attribute__((unused))
#else
#define GO_ORT_INLINE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------- handles -- */

typedef struct OrtApi OrtApi; /* really: an array of function pointers */
typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtCustomOp OrtCustomOp;

/* The one entry point a library is given.  GetApi gives NULL (and writes a
 * line to stderr) for a version the runtime does not know. */
typedef struct OrtApiBase {
  const OrtApi *(GO_ORT_CALL *GetApi)(uint32_t version);
  const char *(GO_ORT_CALL *GetVersionString)(void);
} OrtApiBase;

/* --------------------------------------------------------- enumerations -- */

/* Element types; the numbers are those of onnx.TensorProto up to BFLOAT16 and
 * part from them afterwards. */
typedef enum ONNXTensorElementDataType {
  GO_DTYPE_UNDEFINED = 0, /* as a declared type: any */
  GO_DTYPE_FLOAT = 1,
  GO_DTYPE_UINT8 = 2,
  GO_DTYPE_INT8 = 3,
  GO_DTYPE_UINT16 = 4,
  GO_DTYPE_INT16 = 5,
  GO_DTYPE_INT32 = 6,
  GO_DTYPE_INT64 = 7,
  GO_DTYPE_STRING = 8,
  GO_DTYPE_BOOL = 9,
  GO_DTYPE_FLOAT16 = 10,
  GO_DTYPE_DOUBLE = 11,
  GO_DTYPE_UINT32 = 12,
  GO_DTYPE_UINT64 = 13,
  GO_DTYPE_COMPLEX64 = 14,
  GO_DTYPE_COMPLEX128 = 15,
  GO_DTYPE_BFLOAT16 = 16
} ONNXTensorElementDataType;

typedef enum OrtErrorCode {
  GO_ORT_OK = 0,
  GO_ORT_FAIL = 1,
  GO_ORT_INVALID_ARGUMENT = 2,
  GO_ORT_NO_SUCHFILE = 3,
  GO_ORT_NO_MODEL = 4,
  GO_ORT_ENGINE_ERROR = 5,
  GO_ORT_RUNTIME_EXCEPTION = 6,
  GO_ORT_INVALID_PROTOBUF = 7,
  GO_ORT_MODEL_LOADED = 8,
  GO_ORT_NOT_IMPLEMENTED = 9,
  GO_ORT_INVALID_GRAPH = 10,
  GO_ORT_EP_FAIL = 11
} OrtErrorCode;

typedef enum OrtCustomOpInputOutputCharacteristic {
  GO_ARG_REQUIRED = 0,
  GO_ARG_OPTIONAL = 1,
  GO_ARG_VARIADIC = 2 /* last input / last output only */
} OrtCustomOpInputOutputCharacteristic;

typedef enum OrtMemType {
  GO_MEM_CPU_INPUT = -2,
  GO_MEM_CPU_OUTPUT = -1,
  GO_MEM_DEFAULT = 0
} OrtMemType;

/* ------------------------------------------------------- custom operator -- */

/* One operator.  The runtime keeps the pointer (not a copy) for as long as a
 * session lives, so the object has to be static.
 *
 * The number after each member is the API version that introduced it; the
 * runtime reads a member only when .version is at least that number.  Rows
 * marked "may be NULL" are tested by the runtime before use; all others are
 * called without a test. */
struct OrtCustomOp {
  uint32_t version; /* GRAPHOPT_ORT_API_VERSION */

  /* 1; unused when CreateKernelV2 is set */
  void *(GO_ORT_CALL *CreateKernel)(const OrtCustomOp *op, const OrtApi *api,
                                    const OrtKernelInfo *info);
  const char *(GO_ORT_CALL *GetName)(const OrtCustomOp *op); /* 1 */
  /* 1; the answer NULL stands for the CPU provider */
  const char *(GO_ORT_CALL *GetExecutionProviderType)(const OrtCustomOp *op);
  ONNXTensorElementDataType(GO_ORT_CALL *GetInputType)(const OrtCustomOp *op,
                                                       size_t index); /* 1 */
  size_t(GO_ORT_CALL *GetInputTypeCount)(const OrtCustomOp *op);       /* 1 */
  ONNXTensorElementDataType(GO_ORT_CALL *GetOutputType)(const OrtCustomOp *op,
                                                        size_t index); /* 1 */
  size_t(GO_ORT_CALL *GetOutputTypeCount)(const OrtCustomOp *op);      /* 1 */
  /* 1; unused when KernelComputeV2 is set */
  void(GO_ORT_CALL *KernelCompute)(void *kernel, OrtKernelContext *context);
  /* 1; not called when CreateKernelV2 answered with a status */
  void(GO_ORT_CALL *KernelDestroy)(void *kernel);

  OrtCustomOpInputOutputCharacteristic(GO_ORT_CALL *GetInputCharacteristic)(
      const OrtCustomOp *op, size_t index); /* 8 */
  OrtCustomOpInputOutputCharacteristic(GO_ORT_CALL *GetOutputCharacteristic)(
      const OrtCustomOp *op, size_t index); /* 8 */

  OrtMemType(GO_ORT_CALL *GetInputMemoryType)(const OrtCustomOp *op,
                                              size_t index); /* 13 */

  /* 14; called only for an argument declared GO_ARG_VARIADIC */
  int(GO_ORT_CALL *GetVariadicInputMinArity)(const OrtCustomOp *op);
  int(GO_ORT_CALL *GetVariadicInputHomogeneity)(const OrtCustomOp *op);
  int(GO_ORT_CALL *GetVariadicOutputMinArity)(const OrtCustomOp *op);
  int(GO_ORT_CALL *GetVariadicOutputHomogeneity)(const OrtCustomOp *op);

  /* 16; may be NULL; take the place of CreateKernel and KernelCompute */
  OrtStatus *(GO_ORT_CALL *CreateKernelV2)(const OrtCustomOp *op,
                                           const OrtApi *api,
                                           const OrtKernelInfo *info,
                                           void **kernel);
  OrtStatus *(GO_ORT_CALL *KernelComputeV2)(void *kernel,
                                            OrtKernelContext *context);

  /* 17; may be NULL */
  OrtStatus *(GO_ORT_CALL *InferOutputShapeFn)(const OrtCustomOp *op,
                                               OrtShapeInferContext *context);
  int(GO_ORT_CALL *GetStartVersion)(const OrtCustomOp *op); /* 17; NULL: 1 */
  int(GO_ORT_CALL *GetEndVersion)(const OrtCustomOp *op);   /* 17; may be NULL */

  /* 18; the Get pair may be NULL.  A Get function points *inputs and *outputs
   * at two arrays of one length and gives that length; the matching Release
   * function is then called with both.  "May be in place" leaves it to the
   * runtime whether the output of a pair gets the buffer of its input; an
   * alias always does.  None of the four is told which operator is meant, so
   * operators with different pairs need different functions. */
  size_t(GO_ORT_CALL *GetMayInplace)(int **inputs, int **outputs);
  void(GO_ORT_CALL *ReleaseMayInplace)(int *inputs, int *outputs);
  size_t(GO_ORT_CALL *GetAliasMap)(int **inputs, int **outputs);
  void(GO_ORT_CALL *ReleaseAliasMap)(int *inputs, int *outputs);
};

/* ---------------------------------------------------------- table slots -- */

enum {
  /* API version 1 */
  GO_SLOT_CreateStatus = 0,
  GO_SLOT_GetErrorCode = 1,
  GO_SLOT_GetErrorMessage = 2,
  GO_SLOT_CreateCustomOpDomain = 26,
  GO_SLOT_CustomOpDomain_Add = 27,
  GO_SLOT_AddCustomOpDomain = 28,
  GO_SLOT_GetTensorMutableData = 51,
  GO_SLOT_GetTensorElementType = 60,
  GO_SLOT_GetDimensionsCount = 61,
  GO_SLOT_GetDimensions = 62,
  GO_SLOT_GetTensorShapeElementCount = 64,
  GO_SLOT_GetTensorTypeAndShape = 65,
  GO_SLOT_KernelInfoGetAttribute_float = 85,
  GO_SLOT_KernelInfoGetAttribute_int64 = 86,
  GO_SLOT_KernelInfoGetAttribute_string = 87,
  GO_SLOT_KernelContext_GetInputCount = 88,
  GO_SLOT_KernelContext_GetOutputCount = 89,
  GO_SLOT_KernelContext_GetInput = 90,
  GO_SLOT_KernelContext_GetOutput = 91,
  GO_SLOT_ReleaseStatus = 93,
  GO_SLOT_ReleaseTensorTypeAndShapeInfo = 99,
  GO_SLOT_ReleaseCustomOpDomain = 101,
  /* API version 8 */
  GO_SLOT_KernelInfoGetAttributeArray_float = 162,
  GO_SLOT_KernelInfoGetAttributeArray_int64 = 163,
  /* API version 10 */
  GO_SLOT_HasValue = 192,
  /* API version 14 */
  GO_SLOT_KernelInfo_GetInputCount = 230,
  GO_SLOT_KernelInfo_GetOutputCount = 231,
  /* API version 15 */
  GO_SLOT_KernelInfo_GetNodeName = 244,
  GO_SLOT_KernelInfoGetConstantInput_tensor = 249,
  /* API version 17 */
  GO_SLOT_KernelContext_ParallelFor = 274,
  /* API version 23, optional */
  GO_SLOT_GetTensorData = 378,
  /* API version 24, optional */
  GO_SLOT_GetTensorElementTypeAndShapeDataReference = 414
};

typedef void(GO_ORT_CALL *GoOrtSlot)(void);

/* Slot `name` of the table, as a function of the given type. */
#define GO_ORT_SLOT(api, name, ret, args) \
  ((ret(GO_ORT_CALL *) args)(((const GoOrtSlot *)(const void *)(api))[GO_SLOT_##name]))

/* --------------------------------------------------- version and errors -- */

/* The API version of the running onnxruntime, taken from "1.N.P"; 0 when the
 * text does not read like that.  Asking GetApi() would do too, but writes to
 * stderr on every miss. */
GO_ORT_INLINE int go_runtime_api_version(const OrtApiBase *base) {
  const char *s = base->GetVersionString();
  int n = 0;
  if (s == NULL || s[0] != '1' || s[1] != '.') return 0;
  for (s += 2; *s >= '0' && *s <= '9' && n < 100000; ++s) n = n * 10 + (*s - '0');
  return n;
}

GO_ORT_INLINE OrtStatus *go_status(const OrtApi *api, OrtErrorCode code,
                                   const char *text) {
  return GO_ORT_SLOT(api, CreateStatus, OrtStatus *,
                     (OrtErrorCode, const char *))(code, text);
}
GO_ORT_INLINE OrtErrorCode go_error_code(const OrtApi *api, const OrtStatus *s) {
  return GO_ORT_SLOT(api, GetErrorCode, OrtErrorCode, (const OrtStatus *))(s);
}
GO_ORT_INLINE const char *go_error_message(const OrtApi *api, const OrtStatus *s) {
  return GO_ORT_SLOT(api, GetErrorMessage, const char *, (const OrtStatus *))(s);
}
GO_ORT_INLINE void go_release_status(const OrtApi *api, OrtStatus *s) {
  GO_ORT_SLOT(api, ReleaseStatus, void, (OrtStatus *))(s);
}

/* ---------------------------------------------------------- registration -- */

GO_ORT_INLINE OrtStatus *go_create_domain(const OrtApi *api, const char *name,
                                          OrtCustomOpDomain **out) {
  return GO_ORT_SLOT(api, CreateCustomOpDomain, OrtStatus *,
                     (const char *, OrtCustomOpDomain **))(name, out);
}
GO_ORT_INLINE OrtStatus *go_domain_add_op(const OrtApi *api,
                                          OrtCustomOpDomain *domain,
                                          const OrtCustomOp *op) {
  return GO_ORT_SLOT(api, CustomOpDomain_Add, OrtStatus *,
                     (OrtCustomOpDomain *, const OrtCustomOp *))(domain, op);
}
/* The options keep the bare pointer: the domain has to live on until every
 * session has been made from these options. */
GO_ORT_INLINE OrtStatus *go_options_add_domain(const OrtApi *api,
                                               OrtSessionOptions *options,
                                               OrtCustomOpDomain *domain) {
  return GO_ORT_SLOT(api, AddCustomOpDomain, OrtStatus *,
                     (OrtSessionOptions *, OrtCustomOpDomain *))(options, domain);
}
GO_ORT_INLINE void go_release_domain(const OrtApi *api, OrtCustomOpDomain *domain) {
  GO_ORT_SLOT(api, ReleaseCustomOpDomain, void, (OrtCustomOpDomain *))(domain);
}

/* ------------------------------------------------------- kernel creation -- */

GO_ORT_INLINE OrtStatus *go_info_input_count(const OrtApi *api,
                                             const OrtKernelInfo *info,
                                             size_t *out) {
  return GO_ORT_SLOT(api, KernelInfo_GetInputCount, OrtStatus *,
                     (const OrtKernelInfo *, size_t *))(info, out);
}
GO_ORT_INLINE OrtStatus *go_info_output_count(const OrtApi *api,
                                              const OrtKernelInfo *info,
                                              size_t *out) {
  return GO_ORT_SLOT(api, KernelInfo_GetOutputCount, OrtStatus *,
                     (const OrtKernelInfo *, size_t *))(info, out);
}
/* Texts: *size is the room in `out` on entry and the length with its final 0
 * on return; out == NULL only asks for the length. */
GO_ORT_INLINE OrtStatus *go_info_node_name(const OrtApi *api,
                                           const OrtKernelInfo *info, char *out,
                                           size_t *size) {
  return GO_ORT_SLOT(api, KernelInfo_GetNodeName, OrtStatus *,
                     (const OrtKernelInfo *, char *, size_t *))(info, out, size);
}
GO_ORT_INLINE OrtStatus *go_attr_string(const OrtApi *api,
                                        const OrtKernelInfo *info,
                                        const char *name, char *out,
                                        size_t *size) {
  return GO_ORT_SLOT(api, KernelInfoGetAttribute_string, OrtStatus *,
                     (const OrtKernelInfo *, const char *, char *,
                      size_t *))(info, name, out, size);
}
GO_ORT_INLINE OrtStatus *go_attr_int(const OrtApi *api, const OrtKernelInfo *info,
                                     const char *name, int64_t *out) {
  return GO_ORT_SLOT(api, KernelInfoGetAttribute_int64, OrtStatus *,
                     (const OrtKernelInfo *, const char *, int64_t *))(info, name,
                                                                       out);
}
GO_ORT_INLINE OrtStatus *go_attr_float(const OrtApi *api,
                                       const OrtKernelInfo *info,
                                       const char *name, float *out) {
  return GO_ORT_SLOT(api, KernelInfoGetAttribute_float, OrtStatus *,
                     (const OrtKernelInfo *, const char *, float *))(info, name,
                                                                     out);
}
/* Arrays: *size counts elements, otherwise as for texts. */
GO_ORT_INLINE OrtStatus *go_attr_ints(const OrtApi *api, const OrtKernelInfo *info,
                                      const char *name, int64_t *out,
                                      size_t *size) {
  return GO_ORT_SLOT(api, KernelInfoGetAttributeArray_int64, OrtStatus *,
                     (const OrtKernelInfo *, const char *, int64_t *,
                      size_t *))(info, name, out, size);
}
GO_ORT_INLINE OrtStatus *go_attr_floats(const OrtApi *api,
                                        const OrtKernelInfo *info,
                                        const char *name, float *out,
                                        size_t *size) {
  return GO_ORT_SLOT(api, KernelInfoGetAttributeArray_float, OrtStatus *,
                     (const OrtKernelInfo *, const char *, float *,
                      size_t *))(info, name, out, size);
}
/* A constant input is owned by the session; *out is good as long as the
 * kernel is.  Read *out only when *is_constant became 1. */
GO_ORT_INLINE OrtStatus *go_info_constant_input(const OrtApi *api,
                                                const OrtKernelInfo *info,
                                                size_t index, int *is_constant,
                                                const OrtValue **out) {
  return GO_ORT_SLOT(api, KernelInfoGetConstantInput_tensor, OrtStatus *,
                     (const OrtKernelInfo *, size_t, int *,
                      const OrtValue **))(info, index, is_constant, out);
}

/* ------------------------------------------------------ kernel execution -- */

GO_ORT_INLINE OrtStatus *go_input_count(const OrtApi *api,
                                        const OrtKernelContext *ctx, size_t *out) {
  return GO_ORT_SLOT(api, KernelContext_GetInputCount, OrtStatus *,
                     (const OrtKernelContext *, size_t *))(ctx, out);
}
GO_ORT_INLINE OrtStatus *go_output_count(const OrtApi *api,
                                         const OrtKernelContext *ctx,
                                         size_t *out) {
  return GO_ORT_SLOT(api, KernelContext_GetOutputCount, OrtStatus *,
                     (const OrtKernelContext *, size_t *))(ctx, out);
}
/* *out is NULL for an optional input that the node leaves out. */
GO_ORT_INLINE OrtStatus *go_input(const OrtApi *api, const OrtKernelContext *ctx,
                                  size_t index, const OrtValue **out) {
  return GO_ORT_SLOT(api, KernelContext_GetInput, OrtStatus *,
                     (const OrtKernelContext *, size_t,
                      const OrtValue **))(ctx, index, out);
}
/* Allocates the output; *out is NULL for an optional output left out. */
GO_ORT_INLINE OrtStatus *go_output(const OrtApi *api, OrtKernelContext *ctx,
                                   size_t index, const int64_t *dims,
                                   size_t rank, OrtValue **out) {
  return GO_ORT_SLOT(api, KernelContext_GetOutput, OrtStatus *,
                     (OrtKernelContext *, size_t, const int64_t *, size_t,
                      OrtValue **))(ctx, index, dims, rank, out);
}
/* Runs fn(data, 0) .. fn(data, total - 1) on the intra-op threads and waits.
 * batches == 0 leaves it to the runtime how the range is divided; any other
 * number cuts it into that many runs of indices. */
GO_ORT_INLINE OrtStatus *go_parallel_for(const OrtApi *api,
                                         const OrtKernelContext *ctx,
                                         void (*fn)(void *data, size_t index),
                                         size_t total, size_t batches,
                                         void *data) {
  return GO_ORT_SLOT(api, KernelContext_ParallelFor, OrtStatus *,
                     (const OrtKernelContext *, void (*)(void *, size_t), size_t,
                      size_t, void *))(ctx, fn, total, batches, data);
}

/* ---------------------------------------------------------------- tensors -- */

/* Whether an optional-typed value holds anything (a left-out input is a NULL
 * OrtValue instead and must not be passed here). */
GO_ORT_INLINE OrtStatus *go_has_value(const OrtApi *api, const OrtValue *value,
                                      int *out) {
  return GO_ORT_SLOT(api, HasValue, OrtStatus *,
                     (const OrtValue *, int *))(value, out);
}
/* Element pointer; may be anything, also NULL, for a tensor of no elements. */
GO_ORT_INLINE OrtStatus *go_tensor_data(const OrtApi *api, OrtValue *value,
                                        void **out) {
  return GO_ORT_SLOT(api, GetTensorMutableData, OrtStatus *,
                     (OrtValue *, void **))(value, out);
}
/* The same for an input.  Uses the version 1 slot, which differs from that of
 * version 23 in constness only. */
GO_ORT_INLINE OrtStatus *go_tensor_const_data(const OrtApi *api,
                                              const OrtValue *value,
                                              const void **out) {
  void *p = NULL;
  OrtStatus *s = go_tensor_data(api, (OrtValue *)value, &p);
  *out = p;
  return s;
}
/* Optional: GO_ORT_SINCE_TENSOR_DATA. */
GO_ORT_INLINE OrtStatus *go_tensor_data_23(const OrtApi *api,
                                           const OrtValue *value,
                                           const void **out) {
  return GO_ORT_SLOT(api, GetTensorData, OrtStatus *,
                     (const OrtValue *, const void **))(value, out);
}

/* Shape and type by way of an info object that the caller has to release. */
GO_ORT_INLINE OrtStatus *go_tensor_info(const OrtApi *api, const OrtValue *value,
                                        OrtTensorTypeAndShapeInfo **out) {
  return GO_ORT_SLOT(api, GetTensorTypeAndShape, OrtStatus *,
                     (const OrtValue *, OrtTensorTypeAndShapeInfo **))(value, out);
}
GO_ORT_INLINE void go_release_tensor_info(const OrtApi *api,
                                          OrtTensorTypeAndShapeInfo *info) {
  GO_ORT_SLOT(api, ReleaseTensorTypeAndShapeInfo, void,
              (OrtTensorTypeAndShapeInfo *))(info);
}
GO_ORT_INLINE OrtStatus *go_tensor_info_dtype(const OrtApi *api,
                                              const OrtTensorTypeAndShapeInfo *info,
                                              ONNXTensorElementDataType *out) {
  return GO_ORT_SLOT(api, GetTensorElementType, OrtStatus *,
                     (const OrtTensorTypeAndShapeInfo *,
                      ONNXTensorElementDataType *))(info, out);
}
GO_ORT_INLINE OrtStatus *go_tensor_info_rank(const OrtApi *api,
                                             const OrtTensorTypeAndShapeInfo *info,
                                             size_t *out) {
  return GO_ORT_SLOT(api, GetDimensionsCount, OrtStatus *,
                     (const OrtTensorTypeAndShapeInfo *, size_t *))(info, out);
}
/* Writes the first `rank` sizes. */
GO_ORT_INLINE OrtStatus *go_tensor_info_dims(const OrtApi *api,
                                             const OrtTensorTypeAndShapeInfo *info,
                                             int64_t *dims, size_t rank) {
  return GO_ORT_SLOT(api, GetDimensions, OrtStatus *,
                     (const OrtTensorTypeAndShapeInfo *, int64_t *,
                      size_t))(info, dims, rank);
}
GO_ORT_INLINE OrtStatus *go_tensor_info_count(const OrtApi *api,
                                              const OrtTensorTypeAndShapeInfo *info,
                                              size_t *out) {
  return GO_ORT_SLOT(api, GetTensorShapeElementCount, OrtStatus *,
                     (const OrtTensorTypeAndShapeInfo *, size_t *))(info, out);
}

/* Shape and type in one call without an allocation.  *dims points into the
 * value itself: nothing to release; it may be NULL when *rank is 0.
 * Optional: GO_ORT_SINCE_SHAPE_REFERENCE. */
GO_ORT_INLINE OrtStatus *go_tensor_shape_ref(const OrtApi *api,
                                             const OrtValue *value,
                                             ONNXTensorElementDataType *dtype,
                                             const int64_t **dims, size_t *rank) {
  return GO_ORT_SLOT(api, GetTensorElementTypeAndShapeDataReference, OrtStatus *,
                     (const OrtValue *, ONNXTensorElementDataType *,
                      const int64_t **, size_t *))(value, dtype, dims, rank);
}

/* Shape into the caller's array, by the better of the two ways.  with_ref is
 * whether the runtime has the optional slot.  A rank over max_rank is an
 * error. */
GO_ORT_INLINE OrtStatus *go_tensor_shape(const OrtApi *api, int with_ref,
                                         const OrtValue *value, int64_t *dims,
                                         size_t max_rank, size_t *rank) {
  OrtStatus *s;
  if (with_ref) {
    ONNXTensorElementDataType dtype;
    const int64_t *d = NULL;
    size_t i, n = 0;
    s = go_tensor_shape_ref(api, value, &dtype, &d, &n);
    if (s != NULL) return s;
    if (n > max_rank)
      return go_status(api, GO_ORT_INVALID_ARGUMENT, "tensor rank too high");
    for (i = 0; i < n; ++i) dims[i] = d[i];
    *rank = n;
    return NULL;
  } else {
    OrtTensorTypeAndShapeInfo *info = NULL;
    size_t n = 0;
    s = go_tensor_info(api, value, &info);
    if (s != NULL) return s;
    s = go_tensor_info_rank(api, info, &n);
    if (s == NULL && n > max_rank)
      s = go_status(api, GO_ORT_INVALID_ARGUMENT, "tensor rank too high");
    if (s == NULL) s = go_tensor_info_dims(api, info, dims, n);
    go_release_tensor_info(api, info);
    if (s == NULL) *rank = n;
    return s;
  }
}

/* ------------------------------------------------------------ entry point -- */

/* What the library has to export:
 *   GO_ORT_EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *,
 *                                              const OrtApiBase *);
 */
GO_ORT_EXPORT OrtStatus *GO_ORT_CALL RegisterCustomOps(OrtSessionOptions *options,
                                                       const OrtApiBase *base);

#ifdef __cplusplus
}
#endif

#endif /* GRAPHOPT_ONNXRUNTIME_ABI_H */
