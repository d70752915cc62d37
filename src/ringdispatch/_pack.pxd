# cython: language_level=3, freethreading_compatible=True
"""Packs a value into the bytes of a field.

Nothing here runs code of the value's or raises, so it may be called under a ring's
lock.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.float cimport DBL_MAX, FLT_MAX
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    # on borrowed pointers
    bint PyFloat_Check(PyObject *) noexcept
    bint PyFloat_CheckExact(PyObject *) noexcept
    bint PyLong_Check(PyObject *) noexcept
    bint PyBytes_Check(PyObject *) noexcept
    double PyFloat_AS_DOUBLE(PyObject *) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *) noexcept
    unsigned long long PyLong_AsUnsignedLongLong(PyObject *) except? 0xFFFFFFFFFFFFFFFF

cdef extern from *:
    """
    /* Nearly every integer has one digit, and its value needs no call: that saves 60
       instructions in a row with two integers of four fields. */
    static inline int one_digit(PyObject *value, int64_t *number) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (!PyUnstable_Long_IsCompact((PyLongObject *) value)) return 0;
        *number = PyUnstable_Long_CompactValue((PyLongObject *) value);
    #else
        Py_ssize_t size = Py_SIZE(value);
        if (size < -1 || size > 1) return 0;
        *number = size * (int64_t) ((PyLongObject *) value)->ob_digit[0];
    #endif
        return 1;
    }
    """
    bint one_digit(PyObject *, int64_t *) noexcept

# How a value is packed.
cdef enum Kind:
    FLOAT64
    FLOAT32
    INTEGER64
    INTEGER32
    INTEGER16
    INTEGER8
    BYTES

ctypedef struct Field:
    Kind kind
    uint64_t offset
    uint64_t size
    int64_t low  # the integers it holds, within int64; pack_extreme() packs the rest
    int64_t high


cdef inline bint pack(Field *field, PyObject *value, char *row) noexcept:
    """Write a plain value; False if it is not plain, or the field can't hold it.

    Runs no code of the value's and raises nothing: it is called under the lock.
    """
    cdef char *at = row + field.offset
    cdef double real
    cdef float single
    cdef int64_t number
    if field.kind == FLOAT64:
        if not as_double(value, &real):
            return False
        memcpy(at, &real, 8)
        return True
    if field.kind == FLOAT32:
        if not as_double(value, &real):
            return False
        single = <float> real
        memcpy(at, &single, 4)
        # A finite value must not become infinite.
        return -FLT_MAX <= single <= FLT_MAX or not -DBL_MAX <= real <= DBL_MAX
    if field.kind == BYTES:
        return PyBytes_Check(value) and pack_bytes(at, field.size, value)
    if not as_integer(value, &number) or number < field.low or number > field.high:
        return False
    # Through a variable of the field's own size: right in any byte order.
    cdef int8_t number8 = <int8_t> number
    cdef int16_t number16 = <int16_t> number
    cdef int32_t number32 = <int32_t> number
    if field.kind == INTEGER32:
        memcpy(at, &number32, 4)
    elif field.kind == INTEGER64:
        memcpy(at, &number, 8)
    elif field.kind == INTEGER16:
        memcpy(at, &number16, 2)
    else:
        memcpy(at, &number8, 1)
    return True


cdef inline bint as_double(PyObject *value, double *real) noexcept:
    cdef int64_t number
    if PyFloat_CheckExact(value):
        real[0] = PyFloat_AS_DOUBLE(value)
        return True
    if as_integer(value, &number):
        real[0] = <double> number
        return True
    if PyFloat_Check(value):
        real[0] = PyFloat_AS_DOUBLE(value)
        return True
    return False


cdef inline bint as_integer(PyObject *value, int64_t *number) noexcept:
    cdef int overflow = 0
    if not PyLong_Check(value):
        return False
    if one_digit(value, number):
        return True
    number[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow


cdef inline bint pack_bytes(char *at, uint64_t size, PyObject *value) noexcept:
    cdef uint64_t length = PyBytes_GET_SIZE(<object> value)
    if length > size:
        return False
    memcpy(at, PyBytes_AS_STRING(<object> value), length)
    memset(at + length, 0, size - length)
    return True


cdef inline bint pack_extreme(Field *field, PyObject *value, char *row) noexcept:
    """Write a plain value, also an integer above the largest int64."""
    cdef uint64_t number
    if pack(field, value, row):
        return True
    if not PyLong_Check(value) or field.kind != INTEGER64 or field.low != 0:
        return False
    try:
        number = PyLong_AsUnsignedLongLong(value)
    except OverflowError:
        return False
    memcpy(row + field.offset, &number, 8)
    return True
