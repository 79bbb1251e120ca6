// Reads records of four int32 (function, a, b, c) from standard input, writes one int32 each:
// 0: SaturatingRoundingDoublingHighMul(a, b)   1: RoundingDivideByPOT(a, b)
// 2: both, as TFLite composes them: RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(a << max(31 - c, 0), b), max(c - 31, 0))
#include <gemmlowp/fixedpoint/fixedpoint.h>

#include <cstdint>
#include <cstdio>

int main() {
  std::int32_t r[4];
  while (std::fread(r, sizeof r, 1, stdin) == 1) {
    std::int32_t y = 0;
    if (r[0] == 0) {
      y = gemmlowp::SaturatingRoundingDoublingHighMul(r[1], r[2]);
    } else if (r[0] == 1) {
      y = gemmlowp::RoundingDivideByPOT(r[1], static_cast<int>(r[2]));
    } else {
      const int left = r[3] < 31 ? 31 - r[3] : 0, right = r[3] > 31 ? r[3] - 31 : 0;
      const auto shifted = static_cast<std::int32_t>(static_cast<std::int64_t>(r[1]) * (std::int64_t{1} << left));
      y = gemmlowp::RoundingDivideByPOT(gemmlowp::SaturatingRoundingDoublingHighMul(shifted, r[2]), right);
    }
    std::fwrite(&y, sizeof y, 1, stdout);
  }
}
