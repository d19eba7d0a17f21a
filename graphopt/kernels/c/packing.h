/* Packing: elements copied from where they lie, in any order, to where they lie side by side. */
#if !defined(KERNELS_ONLY)
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Transposes a block of 8 x 8 elements. */
#define DEFINE_TRANSPOSE(type, name)                                                                                   \
    static inline void transpose_##name(type *to, int64_t to_row, const type *from, int64_t from_column)               \
    {                                                                                                                  \
        type block[8][8];                                                                                              \
        for (int j = 0; j < 8; j++)                                                                                    \
            memcpy(block[j], from + j * from_column, sizeof block[j]);                                                 \
        for (int i = 0; i < 8; i++)                                                                                    \
            for (int j = 0; j < 8; j++)                                                                                \
                to[i * to_row + j] = block[j][i];                                                                      \
    }

DEFINE_TRANSPOSE(uint8_t, pack_1)
DEFINE_TRANSPOSE(uint16_t, pack_2)
DEFINE_TRANSPOSE(uint64_t, pack_8)

#if defined(__AVX2__)
/* Four of eight columns in registers. Rows j and j + 4 are loaded side by side, so that all shuffles stay within halves. */
static inline __attribute__((always_inline)) void transpose_half_pack_4(uint32_t *to, int64_t to_row,
                                                                        const uint32_t *from, int64_t from_column)
{
#define ROWS(j)                                                                                                        \
    _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)(from + (j) * from_column))),         \
                            _mm_loadu_si128((const void *)(from + ((j) + 4) * from_column)), 1)
    __m256i row0 = ROWS(0), row1 = ROWS(1), row2 = ROWS(2), row3 = ROWS(3);
#undef ROWS
    __m256i low01 = _mm256_unpacklo_epi32(row0, row1), high01 = _mm256_unpackhi_epi32(row0, row1);
    __m256i low23 = _mm256_unpacklo_epi32(row2, row3), high23 = _mm256_unpackhi_epi32(row2, row3);
    _mm256_storeu_si256((void *)to, _mm256_unpacklo_epi64(low01, low23));
    _mm256_storeu_si256((void *)(to + to_row), _mm256_unpackhi_epi64(low01, low23));
    _mm256_storeu_si256((void *)(to + 2 * to_row), _mm256_unpacklo_epi64(high01, high23));
    _mm256_storeu_si256((void *)(to + 3 * to_row), _mm256_unpackhi_epi64(high01, high23));
}

static inline void transpose_pack_4(uint32_t *to, int64_t to_row, const uint32_t *from, int64_t from_column)
{
    transpose_half_pack_4(to, to_row, from, from_column);
    transpose_half_pack_4(to + 4 * to_row, to_row, from + 4, from_column);
}
#else
DEFINE_TRANSPOSE(uint32_t, pack_4)
#endif

/* 16 x 16 elements: where they are of 4 bytes, whole cache lines. */
#define DEFINE_TRANSPOSE_16(type, name)                                                                                \
    static inline void transpose_16_##name(type *to, int64_t to_row, const type *from, int64_t from_column)            \
    {                                                                                                                  \
        for (int i = 0; i < 16; i += 8)                                                                                \
            for (int j = 0; j < 16; j += 8)                                                                            \
                transpose_##name(to + i * to_row + j, to_row, from + j * from_column + i, from_column);                \
    }

DEFINE_TRANSPOSE_16(uint8_t, pack_1)
DEFINE_TRANSPOSE_16(uint16_t, pack_2)
DEFINE_TRANSPOSE_16(uint64_t, pack_8)

#if defined(__AVX512F__)
/* As for eight: rows j, j + 4, j + 8 and j + 12 side by side. */
static inline void transpose_16_pack_4(uint32_t *to, int64_t to_row, const uint32_t *from, int64_t from_column)
{
    for (int side = 0; side < 4; side++, from += 4, to += 4 * to_row) {
#define QUARTER(j) _mm_loadu_si128((const void *)(from + (j) * from_column))
#define ROWS(j)                                                                                                        \
    _mm512_inserti32x4(                                                                                                \
        _mm512_inserti32x4(_mm512_inserti32x4(_mm512_castsi128_si512(QUARTER(j)), QUARTER((j) + 4), 1),                \
                           QUARTER((j) + 8), 2),                                                                       \
        QUARTER((j) + 12), 3)
        __m512i row0 = ROWS(0), row1 = ROWS(1), row2 = ROWS(2), row3 = ROWS(3);
#undef ROWS
#undef QUARTER
        __m512i low01 = _mm512_unpacklo_epi32(row0, row1), high01 = _mm512_unpackhi_epi32(row0, row1);
        __m512i low23 = _mm512_unpacklo_epi32(row2, row3), high23 = _mm512_unpackhi_epi32(row2, row3);
        _mm512_storeu_si512((void *)to, _mm512_unpacklo_epi64(low01, low23));
        _mm512_storeu_si512((void *)(to + to_row), _mm512_unpackhi_epi64(low01, low23));
        _mm512_storeu_si512((void *)(to + 2 * to_row), _mm512_unpacklo_epi64(high01, high23));
        _mm512_storeu_si512((void *)(to + 3 * to_row), _mm512_unpackhi_epi64(high01, high23));
    }
}
#else
DEFINE_TRANSPOSE_16(uint32_t, pack_4)
#endif

/* Copies rows x columns elements of 1, 2, 4 or 8 bytes; steps in elements. */
#define DEFINE_PACK(type, name)                                                                                        \
    static void name(type *to, int64_t to_row, int64_t to_column, const type *from, int64_t from_row,                  \
                     int64_t from_column, int64_t rows, int64_t columns)                                               \
    {                                                                                                                  \
        if (to_column == 1 && from_column == 1) {                                                                      \
            if (to_row == columns && from_row == columns) {                                                            \
                memcpy(to, from, (size_t)(rows * columns) * sizeof(type));                                             \
                return;                                                                                                \
            }                                                                                                          \
            if (columns >= 32) {                                                                                       \
                for (int64_t r = 0; r < rows; r++)                                                                     \
                    memcpy(to + r * to_row, from + r * from_row, (size_t)columns * sizeof(type));                      \
                return;                                                                                                \
            }                                                                                                          \
            for (int64_t r = 0; r < rows; r++)                                                                         \
                for (int64_t c = 0; c < columns; c++)                                                                  \
                    to[r * to_row + c] = from[r * from_row + c];                                                       \
        } else if (to_column == 1 && from_column == 0) {                                                               \
            for (int64_t r = 0; r < rows; r++) {                                                                       \
                type value = from[r * from_row];                                                                       \
                for (int64_t c = 0; c < columns; c++)                                                                  \
                    to[r * to_row + c] = value;                                                                        \
            }                                                                                                          \
        } else if (to_column == 1 && from_row == 1) {                                                                  \
            int64_t r = 0;                                                                                             \
            for (; r + 16 <= rows; r += 16) { /* whole cache lines of source and result */                             \
                int64_t c = 0;                                                                                         \
                for (; c + 16 <= columns; c += 16)                                                                     \
                    transpose_16_##name(to + r * to_row + c, to_row, from + c * from_column + r, from_column);         \
                for (; c < columns; c++)                                                                               \
                    for (int i = 0; i < 16; i++)                                                                       \
                        to[(r + i) * to_row + c] = from[c * from_column + r + i];                                      \
            }                                                                                                          \
            for (; r + 8 <= rows; r += 8) {                                                                            \
                int64_t c = 0;                                                                                         \
                for (; c + 8 <= columns; c += 8)                                                                       \
                    transpose_##name(to + r * to_row + c, to_row, from + c * from_column + r, from_column);            \
                for (; c < columns; c++)                                                                               \
                    for (int i = 0; i < 8; i++)                                                                        \
                        to[(r + i) * to_row + c] = from[c * from_column + r + i];                                      \
            }                                                                                                          \
            for (; r < rows; r++)                                                                                      \
                for (int64_t c = 0; c < columns; c++)                                                                  \
                    to[r * to_row + c] = from[c * from_column + r];                                                    \
        } else {                                                                                                       \
            for (int64_t r = 0; r < rows; r++)                                                                         \
                for (int64_t c = 0; c < columns; c++)                                                                  \
                    to[r * to_row + c * to_column] = from[r * from_row + c * from_column];                             \
        }                                                                                                              \
    }

DEFINE_PACK(uint8_t, pack_1)
DEFINE_PACK(uint16_t, pack_2)
DEFINE_PACK(uint32_t, pack_4)
DEFINE_PACK(uint64_t, pack_8)

static void pack(int bytes, void *to, int64_t to_row, int64_t to_column, const void *from, int64_t from_row,
                 int64_t from_column, int64_t rows, int64_t columns)
{
    if (bytes == 4)
        pack_4(to, to_row, to_column, from, from_row, from_column, rows, columns);
    else if (bytes == 1)
        pack_1(to, to_row, to_column, from, from_row, from_column, rows, columns);
    else if (bytes == 2)
        pack_2(to, to_row, to_column, from, from_row, from_column, rows, columns);
    else
        pack_8(to, to_row, to_column, from, from_row, from_column, rows, columns);
}
#endif
