// memcpy and memset, in place of compiler_builtins' portable ones: most of what boot does is copying.
// Normal memory only, so alignment does not matter (DDI 0487, B2.9).

.section .text.memcpy, "ax"
.global memcpy
.global copy_bytes
copy_bytes:                                     // for what others may write at the same time: no compiler looks into it
memcpy:                                         // x0 to, x1 from, x2 bytes; returns x0
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     x6, x7, [x1, #16]
    ldp     x8, x9, [x1, #32]
    ldp     x10, x11, [x1, #48]
    ldp     x4, x5, [x1], #64
    stp     x6, x7, [x3, #16]
    stp     x8, x9, [x3, #32]
    stp     x10, x11, [x3, #48]
    stp     x4, x5, [x3], #64
    subs    x2, x2, #64
    b.hs    1b
2:  adds    x2, x2, #56                         // bytes left, less 8
    b.mi    4f
3:  ldr     x4, [x1], #8
    str     x4, [x3], #8
    subs    x2, x2, #8
    b.pl    3b
4:  adds    x2, x2, #8
    b.eq    6f
5:  ldrb    w4, [x1], #1
    strb    w4, [x3], #1
    subs    x2, x2, #1
    b.ne    5b
6:  ret

.section .text.memset, "ax"
.global memset
memset:                                         // x0 to, w1 byte, x2 bytes; returns x0
    mov     x3, x0
    and     x1, x1, #0xff
    mov     x4, #0x0101010101010101
    mul     x1, x1, x4
    subs    x2, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    stp     x1, x1, [x3, #32]
    stp     x1, x1, [x3, #48]
    add     x3, x3, #64
    subs    x2, x2, #64
    b.hs    1b
2:  adds    x2, x2, #56
    b.mi    4f
3:  str     x1, [x3], #8
    subs    x2, x2, #8
    b.pl    3b
4:  adds    x2, x2, #8
    b.eq    6f
5:  strb    w1, [x3], #1
    subs    x2, x2, #1
    b.ne    5b
6:  ret
