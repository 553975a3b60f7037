// The functions of a kernel by their names in the library, for every dtype: for a file that has `normalise`, `evaluate`
// and `differentiate` for a kind of plan.

#pragma once

#include "cpu_vectors.h"

#define EXPORT(PREFIX, PLAN, NAME, T)                                                                                \
  extern "C" void PREFIX##normalise_##NAME(const PLAN* plan, const T* x, T* y, const Scalar<T>* weight,              \
                                           const Scalar<T>* bias, Scalar<T>* means, Scalar<T>* inverses,             \
                                           Scalar<T>* running_mean, Scalar<T>* running_var, double momentum,         \
                                           int unbiased, double eps, int threads) {                                  \
    normalise<T>(*plan, x, y, weight, bias, means, inverses, running_mean, running_var, momentum, unbiased, eps,     \
                 threads);                                                                                           \
  }                                                                                                                  \
  extern "C" void PREFIX##evaluate_##NAME(const PLAN* plan, const T* x, T* y, const Scalar<T>* weight,               \
                                          const Scalar<T>* bias, Scalar<T>* means, Scalar<T>* inverses,              \
                                          const Scalar<T>* running_mean, const Scalar<T>* running_var,               \
                                          double eps, int threads) {                                                 \
    evaluate<T>(*plan, x, y, weight, bias, means, inverses, running_mean, running_var, eps, threads);                \
  }                                                                                                                  \
  extern "C" void PREFIX##differentiate_##NAME(const PLAN* plan, const T* dy, const T* x, T* dx,                     \
                                               const Scalar<T>* weight, const Scalar<T>* means,                      \
                                               const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias,      \
                                               int training, int threads) {                                          \
    differentiate<T>(*plan, dy, x, dx, weight, means, inverses, dweight, dbias, training, threads);                  \
  }

#define EXPORT_ALL(PREFIX, PLAN)                                                                                     \
  EXPORT(PREFIX, PLAN, float32, float)                                                                               \
  EXPORT(PREFIX, PLAN, float64, double)                                                                              \
  EXPORT(PREFIX, PLAN, bfloat16, bfloat16)
