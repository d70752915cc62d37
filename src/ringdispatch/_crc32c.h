/* crc32c (Castagnoli, RFC 3720), by the processor's instruction where it has one.

   Each way continues what it is given: crc32c(crc32c(0, a), b) is that of a and b. No
   flag of the compiler is needed: the instruction is allowed for one function alone, and
   the processor is asked at run time. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t (*crc32c_way)(uint32_t crc, const char *data, size_t size);

static uint32_t crc32c_table[256];

static inline uint32_t crc32c_by_table(uint32_t crc, const char *data, size_t size) {
  const unsigned char *at = (const unsigned char *) data;
  crc = ~crc;
  for (; size; size--) crc = crc >> 8 ^ crc32c_table[(crc ^ *at++) & 255];
  return ~crc;
}

static inline void crc32c_fill_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    crc32c_table[byte] = crc;
  }
}

#if defined(__GNUC__) && defined(__x86_64__)

#include <cpuid.h>
#include <nmmintrin.h>

#define CRC32C_FUNCTION __attribute__((target("sse4.2")))
#define CRC32C_NAME "sse4.2"
#define crc32c_8(crc, word) _mm_crc32_u64(crc, word)
#define crc32c_4(crc, word) _mm_crc32_u32(crc, word)
#define crc32c_1(crc, byte) _mm_crc32_u8(crc, byte)

static inline int crc32c_has_instruction(void) {
  unsigned int a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
}

#elif defined(__GNUC__) && defined(__aarch64__) && defined(__AARCH64EL__)

#ifdef __linux__
#include <sys/auxv.h>
#endif

/* In assembler: compilers disagree on how one function may use the intrinsics. */
#define CRC32C_FUNCTION
#define CRC32C_NAME "armv8 crc"

static inline uint64_t crc32c_8(uint64_t crc, uint64_t word) {
  __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
  return crc;
}

static inline uint32_t crc32c_4(uint32_t crc, uint32_t word) {
  __asm__(".arch_extension crc\n\tcrc32cw %w0, %w0, %w1" : "+r"(crc) : "r"(word));
  return crc;
}

static inline uint32_t crc32c_1(uint32_t crc, unsigned char byte) {
  __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1"
          : "+r"(crc)
          : "r"((uint32_t) byte));
  return crc;
}

static inline int crc32c_has_instruction(void) {
#if defined(__ARM_FEATURE_CRC32) || defined(__APPLE__)
  return 1;
#elif defined(__linux__)
  return getauxval(AT_HWCAP) >> 7 & 1; /* HWCAP_CRC32 */
#else
  return 0;
#endif
}

#endif

#ifdef CRC32C_FUNCTION

static inline uint64_t crc32c_word(const char *data) {
  uint64_t word;
  memcpy(&word, data, 8);
  return word;
}

CRC32C_FUNCTION
static inline uint32_t crc32c_by_instruction(uint32_t start, const char *data, size_t size) {
  uint64_t crc = (uint32_t) ~start;
  for (; size >= 64; data += 64, size -= 64) {
    crc = crc32c_8(crc, crc32c_word(data));
    crc = crc32c_8(crc, crc32c_word(data + 8));
    crc = crc32c_8(crc, crc32c_word(data + 16));
    crc = crc32c_8(crc, crc32c_word(data + 24));
    crc = crc32c_8(crc, crc32c_word(data + 32));
    crc = crc32c_8(crc, crc32c_word(data + 40));
    crc = crc32c_8(crc, crc32c_word(data + 48));
    crc = crc32c_8(crc, crc32c_word(data + 56));
  }
  for (; size >= 8; data += 8, size -= 8) crc = crc32c_8(crc, crc32c_word(data));
  if (size & 4) {
    uint32_t word;
    memcpy(&word, data, 4);
    crc = crc32c_4((uint32_t) crc, word);
    data += 4;
  }
  for (size &= 3; size; size--) crc = crc32c_1((uint32_t) crc, (unsigned char) *data++);
  return ~(uint32_t) crc;
}

#else

#define CRC32C_NAME "none"
#define crc32c_by_instruction crc32c_by_table
#define crc32c_has_instruction() 0

#endif

static inline uint32_t crc32c_first(uint32_t crc, const char *data, size_t size);

static crc32c_way crc32c = crc32c_first;

static inline void crc32c_choose(void) {
  crc32c_fill_table();
  crc32c = crc32c_has_instruction() ? crc32c_by_instruction : crc32c_by_table;
}

/* Each module that includes this chooses at its first call. */
static inline uint32_t crc32c_first(uint32_t crc, const char *data, size_t size) {
  crc32c_choose();
  return crc32c(crc, data, size);
}
