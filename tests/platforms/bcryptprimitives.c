// What Rust's standard library asks Windows for random numbers, in terms of what older versions of wine have.
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(void *to, unsigned long length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(unsigned char *to, size_t length) {
    return SystemFunction036(to, (unsigned long)length);
}
