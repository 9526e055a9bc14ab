// Binding to Python: arrays come and go through the buffer protocol of the limited API, so one build serves every
// Python from 3.11 on. A call that finds something unusual returns -1 and leaves the words to Python.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <limits.h>
#include <pthread.h>

#include "engine.hpp"

#if defined(__x86_64__)
namespace nash_v4 { extern const Engine engine; }
namespace nash_v3 { extern const Engine engine; }
#endif
namespace nash_base { extern const Engine engine; }
namespace nash_device { extern const Engine engine; }

namespace {

const Engine* engine = &nash_base::engine;

bool same(const char* a, const char* b) {
    for (; *a && *a == *b; ++a, ++b) {}
    return *a == *b;
}

const Engine* find(const char* name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd");
    const Engine* all[] = {v4 ? &nash_v4::engine : nullptr, v3 ? &nash_v3::engine : nullptr, &nash_base::engine};
#else
    const Engine* all[] = {&nash_base::engine};
#endif
    for (const Engine* one : all)
        if (one && (!name || same(one->name, name))) return one;
    if (name && same(name, "device")) return &nash_device::engine;  // what a GPU would compute, on the host
    return nullptr;
}

// A C-contiguous array of doubles or 64-bit integers; None gives null.
struct View {
    Py_buffer buffer{};
    bool held = false;
    ~View() {
        if (held) PyBuffer_Release(&buffer);
    }
    bool take(PyObject* object, bool writable, char kind) {
        if (object == Py_None) return true;
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &buffer, flags) != 0) {
            PyErr_Clear();
            return false;
        }
        held = true;
        const char* format = buffer.format ? buffer.format : "B";
        if (kind == 'd') return format[0] == 'd' && !format[1];
        return (format[0] == 'l' || format[0] == 'q') && !format[1] && buffer.itemsize == 8;
    }
    double* doubles() const { return held ? (double*)buffer.buf : nullptr; }
    long long* integers() const { return held ? (long long*)buffer.buf : nullptr; }
    Py_ssize_t length() const { return held ? buffer.len / 8 : 0; }
};

struct Task {
    const Batch* batch;
    int (*work)(const Batch&, long, long);
    long begin, end;
    int worst;
};

void* labour(void* task) {
    Task* t = (Task*)task;
    t->worst = t->work(*t->batch, t->begin, t->end);
    return nullptr;
}

// Splits a batch among threads in multiples of 64 problems; each problem's result does not depend on the split.
int run(const Batch& p, int (*work)(const Batch&, long, long), long threads) {
    const long most = p.count * p.n / 4096 + 1;
    threads = threads < most ? threads : most;
    if (threads <= 1) return work(p, 0, p.count);
    if (threads > 256) threads = 256;
    Task tasks[256];
    pthread_t ids[256];
    bool started[256];
    const long share = ((p.count / threads + 64) / 64) * 64;
    int worst = 0;
    for (long k = 0; k < threads; ++k) {
        const long begin = k * share < p.count ? k * share : p.count;
        const long end = begin + share < p.count ? begin + share : p.count;
        tasks[k] = {&p, work, begin, k + 1 == threads ? p.count : end, 0};
        started[k] = k + 1 < threads && pthread_create(&ids[k], nullptr, labour, &tasks[k]) == 0;
        if (!started[k]) labour(&tasks[k]);
    }
    for (long k = 0; k < threads; ++k) {
        if (started[k]) pthread_join(ids[k], nullptr);
        worst = tasks[k].worst < 0 || worst < 0 ? -1 : (tasks[k].worst > worst ? tasks[k].worst : worst);
    }
    return worst;
}

// gram (..., n, n) and the small arrays beside it; false where a shape is not the expected one.
bool shape(const View& gram, const View& weights, const View& radius, Batch& p) {
    if (!gram.held || gram.buffer.ndim < 2) return false;
    const Py_ssize_t n = gram.buffer.shape[gram.buffer.ndim - 1];
    if (n < 1 || n > 8192 || gram.buffer.shape[gram.buffer.ndim - 2] != n) return false;
    p.n = (int)n;
    p.count = (long)(gram.length() / (n * n));
    p.gram = gram.doubles();
    p.weights = weights.doubles();
    p.radius = radius.doubles();
    const bool one_weights = weights.length() == n, one_radius = radius.length() == 1;
    p.weights_step = one_weights ? 0 : (long)n;
    p.radius_step = one_radius ? 0 : 1;
    if (weights.held && !one_weights && weights.length() != p.count * n) return false;
    return p.count > 0 && (!radius.held || one_radius || radius.length() == p.count);
}

PyObject* weights(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 3) return PyErr_Format(PyExc_TypeError, "weights(gram, weights, out)");
    View gram, w, none, out;
    Batch p{};
    if (!gram.take(args[0], false, 'd') || !w.take(args[1], false, 'd') || !out.take(args[2], true, 'd') ||
        !shape(gram, w, none, p) || out.length() != p.count * p.n)
        return PyLong_FromLong(-1);
    p.alpha = out.doubles();
    p.rtol = 1e-10;
    p.max_iter = 64;
    int worst;
    if (p.count * p.n * p.n < 512) {
        worst = engine->solve(p, 0, p.count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        worst = run(p, engine->solve, 1);
        Py_END_ALLOW_THREADS
    }
    return PyLong_FromLong(worst);
}

// A disagreement point for every item, or one for all; it needs a radius.
bool place(const View& d, Batch& p) {
    p.disagreement = d.doubles();
    p.disagreement_step = d.length() == p.n ? 0 : p.n;
    return !d.held || (p.radius && (d.length() == p.n || d.length() == (Py_ssize_t)p.count * p.n));
}

PyObject* solve(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 15)
        return PyErr_Format(PyExc_TypeError,
                            "solve(gram, weights, radius, disagreement, start, gram_error, rtol, max_iter, lines, numbers, status, "
                            "n_iter, (scale, unit), threads, in_floats)");
    View gram, w, radius, d, start, lines, numbers, status, n_iter, scale, unit;
    Batch p{};
    p.gram_error = PyFloat_AsDouble(args[5]);
    p.rtol = PyFloat_AsDouble(args[6]);
    p.max_iter = (int)PyLong_AsLong(args[7]);
    const long threads = PyLong_AsLong(args[13]);
    p.rough = PyLong_AsLong(args[14]) != 0;
    PyObject *first = PyTuple_GetItem(args[12], 0), *second = first ? PyTuple_GetItem(args[12], 1) : nullptr;
    if (PyErr_Occurred()) return nullptr;
    if (!gram.take(args[0], false, 'd') || !w.take(args[1], false, 'd') || !radius.take(args[2], false, 'd') ||
        !d.take(args[3], false, 'd') || !start.take(args[4], false, 'd') || !lines.take(args[8], true, 'd') || !numbers.take(args[9], true, 'd') ||
        !status.take(args[10], true, 'q') || !n_iter.take(args[11], true, 'q') || !scale.take(first, true, 'd') ||
        !unit.take(second, true, 'd') || !shape(gram, w, radius, p))
        return PyLong_FromLong(-1);
    const Py_ssize_t vector = (Py_ssize_t)p.count * p.n;
    if (start.held && start.length() != vector) return PyLong_FromLong(-1);
    if (!place(d, p)) return PyLong_FromLong(-1);
    if (lines.length() != 7 * vector || numbers.length() != 11 * (Py_ssize_t)p.count || status.length() != p.count ||
        n_iter.length() != p.count || scale.length() != vector || unit.length() != vector * p.n)
        return PyErr_Format(PyExc_ValueError, "an output array has the wrong size");
    p.start = start.doubles(), p.alpha = lines.doubles(), p.whole = true, p.numbers = numbers.doubles();
    p.status = status.integers(), p.n_iter = n_iter.integers(), p.scale = scale.doubles(), p.unit = unit.doubles();
    p.definite = true;
    int worst;
    Py_BEGIN_ALLOW_THREADS
    worst = run(p, engine->solve, threads);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(worst < 0 ? -2 : worst);  // -2: some items need words, their status is negative
}

PyObject* certify(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 10)
        return PyErr_Format(PyExc_TypeError,
                            "certify(gram, weights, radius, disagreement, alpha, gram_error, rtol, lines, numbers, "
                            "status)");
    View gram, w, radius, d, alpha, lines, numbers, status;
    Batch p{};
    p.gram_error = PyFloat_AsDouble(args[5]);
    p.rtol = PyFloat_AsDouble(args[6]);
    if (PyErr_Occurred()) return nullptr;
    if (!gram.take(args[0], false, 'd') || !w.take(args[1], false, 'd') || !radius.take(args[2], false, 'd') ||
        !d.take(args[3], false, 'd') || !alpha.take(args[4], false, 'd') || !lines.take(args[7], true, 'd') ||
        !numbers.take(args[8], true, 'd') || !status.take(args[9], true, 'q') || !shape(gram, w, radius, p))
        return PyLong_FromLong(-1);
    const Py_ssize_t vector = (Py_ssize_t)p.count * p.n;
    if (alpha.length() != vector || !place(d, p)) return PyLong_FromLong(-1);
    if (lines.length() != 7 * vector || numbers.length() != 11 * (Py_ssize_t)p.count || status.length() != p.count)
        return PyErr_Format(PyExc_ValueError, "an output array has the wrong size");
    p.start = alpha.doubles(), p.alpha = lines.doubles(), p.whole = true;
    p.numbers = numbers.doubles(), p.status = status.integers();
    return PyLong_FromLong(engine->certify(p, 0, p.count));
}

PyObject* examine(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 5) return PyErr_Format(PyExc_TypeError, "examine(gram, gram_error, scale, unit, threads)");
    View gram, none, scale, unit;
    Batch p{};
    p.gram_error = PyFloat_AsDouble(args[1]);
    const long threads = PyLong_AsLong(args[4]);
    if (PyErr_Occurred()) return nullptr;
    if (!gram.take(args[0], false, 'd') || !scale.take(args[2], true, 'd') || !unit.take(args[3], true, 'd') ||
        !shape(gram, none, none, p) || scale.length() != (Py_ssize_t)p.count * p.n || unit.length() != gram.length())
        return PyLong_FromLong(-1);
    p.scale = scale.doubles(), p.unit = unit.doubles();
    if (p.count == 1) return PyLong_FromLong(engine->examine(p, 0, 1));
    int worst;
    Py_BEGIN_ALLOW_THREADS
    worst = run(p, engine->examine, threads);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(worst);
}

PyObject* inverse(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 2) return PyErr_Format(PyExc_TypeError, "inverse(matrices, out)");
    View matrices, none, out;
    Batch p{};
    if (!matrices.take(args[0], false, 'd') || !out.take(args[1], true, 'd') || !shape(matrices, none, none, p) ||
        out.length() != matrices.length())
        return PyErr_Format(PyExc_ValueError, "contiguous float64 arrays of matching shapes are needed");
    p.unit = out.doubles();
    engine->invert(p, 0, p.count);
    Py_RETURN_NONE;
}

PyObject* newton(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 10)
        return PyErr_Format(PyExc_TypeError,
                            "newton(unit_gram, weights, start, noise, max_iter, alpha, stop, n_iter, threads, in_floats)");
    View gram, w, none, start, alpha, stop, n_iter;
    Batch p{};
    p.noise = PyFloat_AsDouble(args[3]);
    p.max_iter = (int)PyLong_AsLong(args[4]);
    const long threads = PyLong_AsLong(args[8]);
    p.rough = PyLong_AsLong(args[9]) != 0;
    if (PyErr_Occurred()) return nullptr;
    if (!gram.take(args[0], false, 'd') || !w.take(args[1], false, 'd') || !start.take(args[2], false, 'd') ||
        !alpha.take(args[5], true, 'd') || !stop.take(args[6], true, 'q') || !n_iter.take(args[7], true, 'q') ||
        !shape(gram, w, none, p))
        return PyErr_Format(PyExc_ValueError, "contiguous float64 arrays of matching shapes are needed");
    const Py_ssize_t vector = (Py_ssize_t)p.count * p.n;
    if (alpha.length() != vector || stop.length() != p.count || n_iter.length() != p.count ||
        (start.held && start.length() != vector))
        return PyErr_Format(PyExc_ValueError, "an array has the wrong size");
    p.start = start.doubles(), p.alpha = alpha.doubles(), p.status = stop.integers(), p.n_iter = n_iter.integers();
    Py_BEGIN_ALLOW_THREADS
    run(p, engine->iterate, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyObject* in_ball(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 5) return PyErr_Format(PyExc_TypeError, "in_ball(gram, limit, weights, max_iter, eta)");
    View gram, limit, w, eta;
    Batch p{};
    const long max_iter = PyLong_AsLong(args[3]);
    if (PyErr_Occurred()) return nullptr;
    if (!gram.take(args[0], false, 'd') || !limit.take(args[1], false, 'd') || !w.take(args[2], false, 'd') ||
        !eta.take(args[4], true, 'd') || !shape(gram, View(), View(), p) || p.count != 1 || limit.length() != p.n ||
        w.length() < 1 || w.length() > p.n || eta.length() != p.n)
        return PyErr_Format(PyExc_ValueError, "contiguous float64 arrays of matching shapes are needed");
    int steps = 0, stop;
    PyThreadState* lock = p.n >= 32 ? PyEval_SaveThread() : nullptr;  // others may run meanwhile, if it takes a while
    stop = engine->in_ball((int)w.length(), p.n, p.gram, limit.doubles(), w.doubles(), (int)max_iter, eta.doubles(),
                           &steps);
    if (lock) PyEval_RestoreThread(lock);
    return Py_BuildValue("ii", stop, steps);
}

PyObject* lottery(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 9)
        return PyErr_Format(PyExc_TypeError,
                            "lottery(payoffs, shift, scale, weights, max_iter, time_limit, rtol, lottery, gains)");
    View payoffs, shift, scale, w, pi, gains;
    const long max_iter = PyLong_AsLong(args[4]);
    const double time_limit = PyFloat_AsDouble(args[5]), rtol = PyFloat_AsDouble(args[6]);
    if (PyErr_Occurred()) return nullptr;
    bool good = payoffs.take(args[0], false, 'd') && shift.take(args[1], false, 'd') && scale.take(args[2], false, 'd') &&
                w.take(args[3], false, 'd') && pi.take(args[7], true, 'd') && gains.take(args[8], true, 'd') &&
                payoffs.held && payoffs.buffer.ndim == 2;
    const Py_ssize_t many = good ? payoffs.buffer.shape[0] : 0, n = good ? payoffs.buffer.shape[1] : 0;
    good = good && many > 0 && n > 0 && many <= INT_MAX && n <= (1 << 20) && max_iter >= 0 && max_iter < INT_MAX &&
           shift.length() == n && scale.length() == n && w.length() == n && gains.length() == n && pi.length() == many;
    if (!good) return PyErr_Format(PyExc_ValueError, "contiguous float64 arrays of matching shapes are needed");
    int steps = 0, stop;
    PyThreadState* lock = many * n >= 512 ? PyEval_SaveThread() : nullptr;
    stop = engine->lottery((long)many, (int)n, payoffs.doubles(), shift.doubles(), scale.doubles(), w.doubles(),
                           (int)max_iter, time_limit, rtol, pi.doubles(), gains.doubles(), &steps);
    if (lock) PyEval_RestoreThread(lock);
    return Py_BuildValue("ii", stop, steps);
}

PyObject* instruction_set(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count == 1) {
        Py_ssize_t length;
        const char* name = PyUnicode_AsUTF8AndSize(args[0], &length);
        if (!name) return nullptr;
        const Engine* found = find(name);
        if (!found) return PyErr_Format(PyExc_ValueError, "this processor or build has no instruction set %s", name);
        engine = found;
    }
    return PyUnicode_FromString(engine->name);
}

#define METHOD(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}
PyMethodDef methods[] = {
    METHOD(weights, "alpha of one Gram or a batch into out; the worst status, -1 for what needs words"),
    METHOD(solve, "alpha, certificate and status of a batch; the worst status, -1 for what needs words"),
    METHOD(certify, "certificate and status of given alphas of checked Grams; the worst status"),
    METHOD(examine, "scale and unit Gram of one problem or a batch; -1 for what needs words"),
    METHOD(inverse, "of symmetric positive definite matrices, NaN where they are not"),
    METHOD(newton, "the iteration alone, on equilibrated Grams"),
    METHOD(in_ball, "multipliers of a ball with linear constraints; why it stopped, and the steps"),
    METHOD(lottery, "lottery and gains of a table of outcomes; why it stopped, and the steps"),
    METHOD(instruction_set, "the instruction set in use; with a name, switch to it (for tests)"),
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "nashsolve.kernels._native", "The compiled kernel.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
    engine = find(nullptr);
    PyObject* module = PyModule_Create(&definition);
    if (module) PyModule_AddIntConstant(module, "interface", 7);  // as INTERFACE in __init__.py
    return module;
}
