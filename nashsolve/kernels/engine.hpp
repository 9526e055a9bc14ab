// What a build of the headers for one instruction set offers to the binding.
#pragma once

struct Batch {
    long count;
    int n;
    const double* gram;
    const double* weights;  // null: ones
    long weights_step;      // 0: the same for all
    const double* radius;   // null: the natural one
    long radius_step;
    const double* start;  // null: cold
    const double* disagreement;  // null: zero
    long disagreement_step;
    double noise;
    double gram_error, rtol;
    int max_iter;
    bool definite;
    bool rough;         // whether to iterate in floats
    double* alpha;      // count * n; with `whole`, the planes of certificate.hpp's Line, count * n each
    bool whole;
    double* numbers;    // planes of Number, count each, or null
    long long* status;  // count
    long long* n_iter;  // count
    double* scale;      // count * n, or null
    double* unit;       // count * n * n, or null
};

struct Engine {
    const char* name;
    int (*solve)(const Batch&, long begin, long end);    // the worst status code, negative if one is left to Python
    int (*iterate)(const Batch&, long begin, long end);  // gram is equilibrated; status holds Stop codes
    int (*certify)(const Batch&, long begin, long end);  // alpha is in start, gram checked
    int (*examine)(const Batch&, long begin, long end);  // fills scale and unit
    int (*invert)(const Batch&, long begin, long end);   // gram is positive definite, its inverse goes to unit
    // A ball with linear constraints (in_ball.hpp): 0 found, 1 max_iter, 2 numerical, -1 no memory.
    int (*in_ball)(int n, int many, const double* gram, const double* limit, const double* w, int max_iter, double* eta,
                   int* steps);
    // Lotteries over the outcomes of a table (long_table.hpp): as Lottery::Stop, -1 no memory.
    int (*lottery)(long many, int n, const double* payoffs, const double* shift, const double* scale, const double* w,
                   int max_iter, double time_limit, double rtol, double* pi, double* gains, int* steps);
};
