//! The global question: route, fan out, merge, assemble, certify.
