// Follows boxes with the networks in a folder: what tracker.py beside it does, in C++17 with onnxruntime alone.
//
//   g++ -O3 -std=c++17 -ffp-contract=off tracker.cpp -I ORT/include -L ORT/lib -lonnxruntime -o tracker
//   ffmpeg -i clip.mp4 -f image2pipe -c:v ppm - | ./tracker embedded 120 80 60 40 [x y w h ...] [--int8] [--threads N]
//
// ORT is an unpacked release of onnxruntime, or wherever its headers and library are. Pictures in PPM (P6) come from
// standard input, one after the other. A line is printed for each object in each frame: frame and object, both from 0,
// x y w h in pixels (x y of the top left corner; nan where the object is lost) and score.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using Box = std::array<double, 4>;  // x y w h

struct Frame {
  int height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], RGB
};

struct Region { int64_t left, top, side; };  // a square of whole pixels, which need not lie in the frame

// The square around the centre of a box whose area is about factor^2 times the box's.
Region region(const Box& box, double factor) {
  double side = std::max(1.0, std::ceil(std::sqrt(box[2] * box[3]) * factor));
  return {int64_t(std::nearbyint(box[0] + 0.5 * box[2] - side * 0.5)),
          int64_t(std::nearbyint(box[1] + 0.5 * box[3] - side * 0.5)), int64_t(side)};
}

struct Span {  // which of a region's pixels along an axis show the frame
  int64_t start, stop;
  // Where it is cut off at the far end, one less: the networks were trained on crops that lose it.
  Span(int64_t from, int64_t side, int64_t length)
      : start(std::max<int64_t>(0, -from)), stop(side - std::max<int64_t>(0, from + side - length + 1)) {}
  bool has(int64_t at) const { return at >= start && at < stop; }
};

struct Tap { int64_t first, second; int32_t a, b; };  // source pixels of a pixel, within the region, and their weights

// Bilinear in OpenCV's fixed point of 11 bits. Along rows (clamped) the last pixel takes the weight of those beyond the
// end, along columns it is repeated with both weights as they are. Pixels beyond the frame weigh nothing.
std::vector<Tap> taps(int64_t side, int out, Span valid, bool clamped) {
  std::vector<Tap> made(out);
  for (int i = 0; i < out; ++i) {
    float position = float((i + 0.5) * (double(side) / out) - 0.5);
    int64_t low = int64_t(std::floor(position));
    float share = position - float(low);
    if (clamped && (low < 0 || low >= side - 1)) share = 0;
    auto pick = [&](int64_t at, float part, int64_t& index, int32_t& weight) {
      at = std::clamp<int64_t>(at, 0, side - 1);
      weight = valid.has(at) ? int32_t(std::nearbyint(part * 2048.0f)) : 0;
      index = std::clamp<int64_t>(at, valid.start, valid.stop - 1);
    };
    pick(low, 1.0f - share, made[i].first, made[i].a);
    pick(low + 1, share, made[i].second, made[i].b);
  }
  return made;
}

// A region of a frame as uint8 [3, out, out] at `to`; zeros where there is no frame.
void cut(const Frame& frame, Region place, int out, uint8_t* to) {
  std::fill(to, to + 3 * out * out, uint8_t(0));
  Span columns(place.left, place.side, frame.width), rows(place.top, place.side, frame.height);
  if (columns.start >= columns.stop || rows.start >= rows.stop) return;
  auto row_at = [&](int64_t y) { return frame.pixels.data() + (y + place.top) * frame.width * 3 + place.left * 3; };
  if (place.side == 2 * out) {  // means of 2 x 2 pixels, to which OpenCV changes over by itself
    auto pixel = [&](int64_t y, int64_t x, int channel) {
      return rows.has(y) && columns.has(x) ? int(row_at(y)[x * 3 + channel]) : 0;
    };
    for (int i = 0; i < 3 * out * out; ++i) {
      int c = i / (out * out), y = 2 * (i / out % out), x = 2 * (i % out);
      to[i] = uint8_t((pixel(y, x, c) + pixel(y, x + 1, c) + pixel(y + 1, x, c) + pixel(y + 1, x + 1, c) + 2) >> 2);
    }
    return;
  }
  std::vector<Tap> across = taps(place.side, out, columns, true), down = taps(place.side, out, rows, false);
  std::vector<int32_t> upper(3 * out), lower(3 * out);
  auto widen = [&](int64_t y, std::vector<int32_t>& line) {
    const uint8_t* source = row_at(y);
    for (int i = 0; i < 3 * out; ++i) {
      const Tap& tap = across[i / 3];
      line[i] = (source[tap.first * 3 + i % 3] * tap.a + source[tap.second * 3 + i % 3] * tap.b) >> 4;
    }
  };
  for (int y = 0; y < out; ++y) {
    widen(down[y].first, upper);
    widen(down[y].second, lower);
    for (int i = 0; i < 3 * out; ++i) {
      int32_t mixed = (upper[i] * down[y].a >> 16) + (lower[i] * down[y].b >> 16);
      to[(i % 3 * out + y) * out + i / 3] = uint8_t((mixed + 2) >> 2);
    }
  }
}

class Tracker {
 public:
  std::vector<Box> boxes;  // where each object was last believed to be
  std::vector<double> scores;
  std::vector<bool> lost;  // whether its score is below lost_below
  Tracker(const std::filesystem::path& folder, bool int8, int threads) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    template_ = Ort::Session(env_, (folder / "template.onnx").c_str(), options);
    step_ = Ort::Session(env_, (folder / (int8 ? "step.int8.onnx" : "step.onnx")).c_str(), options);
    image_ = int(setting("image")[0]), template_side_ = int(setting("template")[0]), grid_ = int(setting("grid")[0]);
    search_factor_ = setting("search_factor")[0], template_factor_ = setting("template_factor")[0];
    size_smoothing_ = setting("size_smoothing")[0], lost_below_ = setting("lost_below")[0];
    margin_ = setting("margin")[0], first_frame_bias_ = setting("first_frame_bias")[0] != 0;
    zooms_ = setting("zooms"), worst_ = setting("worst");
    auto hann = [&](int k) { return 0.5 * (1 - std::cos(2 * std::acos(-1.0) / (grid_ + 1) * (k + 1))); };
    bool windowed = setting("window")[0] != 0;
    for (int cell = 0; cell < grid_ * grid_; ++cell)
      window_.push_back(windowed ? float(hann(cell / grid_) * hann(cell % grid_)) : 1.0f);
  }

  // Follows what lies in these boxes from this frame on.
  void start(const Frame& frame, const std::vector<Box>& given) {
    if (given.empty()) throw std::invalid_argument("there is nothing to follow: give a box");
    for (const Box& b : given)
      if (!std::isfinite(b[0] + b[1] + b[2] + b[3]) || b[2] <= 0 || b[3] <= 0 || b[0] + b[2] <= 0 ||
          b[1] + b[3] <= 0 || b[0] >= frame.width || b[1] >= frame.height)
        throw std::invalid_argument("a box needs a positive width and height, and a place in the frame");
    size_ = {frame.height, frame.width}, boxes = given;
    scores.assign(given.size(), 1), lost.assign(given.size(), false), errors_.assign(given.size(), Box{});
    std::vector<uint8_t> crops;
    Ort::Value input = crops_of(frame, given, template_factor_, template_side_, crops);
    const char *in[] = {"template"}, *out[] = {"tokens"};
    auto made = template_.Run(Ort::RunOptions{nullptr}, in, &input, 1, out, 1);
    tokens_shape_ = made[0].GetTensorTypeAndShapeInfo().GetShape();
    const float* tokens = made[0].GetTensorData<float>();
    tokens_.assign(tokens, tokens + made[0].GetTensorTypeAndShapeInfo().GetElementCount());
    if (first_frame_bias_) find_errors(frame);
  }

  // Where they are in the next frame: `boxes`, `scores` and `lost`. Another size shows the same view at another scale.
  void step(const Frame& frame) {
    double down = double(frame.height) / size_[0], across = double(frame.width) / size_[1];
    for (Box& b : boxes) b = {b[0] * across, b[1] * down, b[2] * across, b[3] * down};
    size_ = {frame.height, frame.width};
    std::vector<Box> found;
    scores = locate(frame, boxes, found);
    for (size_t row = 0; row < boxes.size(); ++row) {
      if ((lost[row] = scores[row] < lost_below_)) continue;
      Box& box = boxes[row];
      for (int axis = 0; axis < 2; ++axis) {
        double centre = found[row][axis] + found[row][axis + 2] / 2 - errors_[row][axis] * box[axis + 2];
        double size = found[row][axis + 2] * std::exp(-errors_[row][axis + 2]);
        size = size_smoothing_ * box[axis + 2] + (1 - size_smoothing_) * size;
        double length = size_[1 - axis], least = std::min(margin_, length);
        double low = std::clamp(centre - size / 2, 0.0, length - least);
        double high = std::clamp(centre - size / 2 + size, least, length);
        box[axis] = low, box[axis + 2] = std::max(high - low, least);
      }
    }
  }

 private:
  // The numbers that the step network's file has under a name.
  std::vector<double> setting(const char* name) {
    auto text = step_.GetModelMetadata().LookupCustomMetadataMapAllocated(name, allocator_);
    if (!text) throw std::runtime_error(std::string("the network names no ") + name);
    std::istringstream words(text.get());
    return {std::istream_iterator<double>(words), std::istream_iterator<double>()};
  }

  // uint8 [N, 3, out, out] around boxes, in the memory of `crops`.
  Ort::Value crops_of(const Frame& frame, const std::vector<Box>& around, double factor, int out,
                      std::vector<uint8_t>& crops) {
    std::array<int64_t, 4> shape{int64_t(around.size()), 3, out, out};
    crops.resize(around.size() * 3 * out * out);
    for (size_t row = 0; row < around.size(); ++row)
      cut(frame, region(around[row], factor), out, crops.data() + row * 3 * out * out);
    return Ort::Value::CreateTensor<uint8_t>(memory_, crops.data(), crops.size(), shape.data(), 4);
  }

  // Scores, and boxes as the network has them, from crops around `around`, one for each object.
  std::vector<double> locate(const Frame& frame, const std::vector<Box>& around, std::vector<Box>& found) {
    std::vector<uint8_t> crops;
    Ort::Value inputs[] = {
        Ort::Value::CreateTensor<float>(memory_, tokens_.data(), tokens_.size(), tokens_shape_.data(), 3),
        crops_of(frame, around, search_factor_, image_, crops)};
    const char *in[] = {"tokens", "search"}, *out[] = {"score", "offset", "size"};
    auto maps = step_.Run(Ort::RunOptions{nullptr}, in, inputs, 2, out, 3);
    int cells = grid_ * grid_;
    std::vector<double> confidence;
    found.clear();
    for (size_t row = 0; row < around.size(); ++row) {
      const float* score = maps[0].GetTensorData<float>() + row * cells;
      const float* offset = maps[1].GetTensorData<float>() + row * 2 * cells;
      const float* size = maps[2].GetTensorData<float>() + row * 2 * cells;
      int peak = 0;
      for (int cell = 1; cell < cells; ++cell)
        if (score[cell] * window_[cell] > score[peak] * window_[peak]) peak = cell;
      double side = double(region(around[row], search_factor_).side);
      Box box;
      for (int axis = 0; axis < 2; ++axis) {
        float centre = (float(axis ? peak / grid_ : peak % grid_) + offset[axis * cells + peak]) / float(grid_);
        double middle = centre * side + around[row][axis] + around[row][axis + 2] / 2 - side / 2;
        box[axis + 2] = size[axis * cells + peak] * side;
        box[axis] = middle - box[axis + 2] / 2;
      }
      found.push_back(box);
      confidence.push_back(score[peak]);
    }
    return confidence;
  }

  // By how much the network misses the boxes where they are known: of the centre in sides, of the log of the size.
  void find_errors(const Frame& frame) {
    for (double zoom : zooms_) {
      std::vector<Box> around, found;
      for (const Box& b : boxes)
        around.push_back({b[0] + (b[2] - zoom * b[2]) / 2, b[1] + (b[3] - zoom * b[3]) / 2, zoom * b[2], zoom * b[3]});
      locate(frame, around, found);
      for (size_t i = 0; i < 2 * boxes.size(); ++i) {
        const Box &b = boxes[i / 2], &f = found[i / 2];
        size_t axis = i % 2, side = axis + 2;
        double away = f[axis] + f[side] / 2 - b[axis] - b[side] / 2;
        errors_[i / 2][axis] += away / b[side] / zooms_.size();
        errors_[i / 2][side] += std::log(f[side] / b[side]) / zooms_.size();
      }
    }
    for (Box& errors : errors_)
      for (int k = 0; k < 4; ++k) errors[k] = std::clamp(errors[k], -worst_[k], worst_[k]);
  }

  Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "tracker"};
  Ort::AllocatorWithDefaultOptions allocator_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Session template_{nullptr}, step_{nullptr};
  int image_, template_side_, grid_;
  double search_factor_, template_factor_, size_smoothing_, lost_below_, margin_;
  bool first_frame_bias_;
  std::vector<double> zooms_, worst_;
  std::vector<float> window_;  // [grid, grid]: favours the middle of the score map
  std::array<int, 2> size_{};  // height and width of the last frame
  std::vector<float> tokens_;  // [N, M, C]: the templates, embedded once
  std::vector<int64_t> tokens_shape_;
  std::vector<Box> errors_;  // how far what is found lies from the box
};

// The next picture of a stream of PPMs; false at its end.
bool read(std::istream& stream, Frame& frame) {
  std::string magic;
  auto word = [&](auto& value) {
    while ((stream >> std::ws).peek() == '#') stream.ignore(1 << 16, '\n');
    return bool(stream >> value);
  };
  if (!word(magic)) return false;
  int most = 0;
  bool whole = word(frame.width) && word(frame.height) && word(most) && magic == "P6" && most == 255;
  if (whole && frame.width > 0 && frame.height > 0) {
    frame.pixels.resize(size_t(frame.width) * frame.height * 3);
    if (stream.get(), stream.read(reinterpret_cast<char*>(frame.pixels.data()), frame.pixels.size())) return true;
  }
  throw std::invalid_argument("standard input is no stream of whole PPM pictures (P6, 8 bits)");
}

int main(int count, char** words) try {
  std::vector<double> numbers;
  bool int8 = false, wrong = false;
  int threads = 1;
  for (int i = 2; i < count; ++i) {
    char* end = words[i];
    if (!std::strcmp(words[i], "--int8")) int8 = true;
    else if (!std::strcmp(words[i], "--threads") && i + 1 < count) threads = std::atoi(words[++i]);
    else if (numbers.push_back(std::strtod(words[i], &end)), *end) wrong = true;
  }
  if (wrong || numbers.empty() || numbers.size() % 4)
    throw std::invalid_argument("usage: tracker FOLDER x y w h [x y w h ...] [--int8] [--threads N]");
  std::vector<Box> given(numbers.size() / 4);
  for (size_t i = 0; i < numbers.size(); ++i) given[i / 4][i % 4] = numbers[i];
  Tracker tracker(words[1], int8, threads);
  Frame frame;
  for (int number = 0; read(std::cin, frame); ++number) {
    if (number) tracker.step(frame);
    else tracker.start(frame, given);
    for (size_t row = 0; row < given.size(); ++row) {
      const Box b = tracker.lost[row] ? Box{NAN, NAN, NAN, NAN} : tracker.boxes[row];
      std::printf("%d %zu %.3f %.3f %.3f %.3f %.4f\n", number, row, b[0], b[1], b[2], b[3], tracker.scores[row]);
    }
    std::fflush(stdout);
  }
} catch (const std::exception& error) {
  std::cerr << "tracker: " << error.what() << "\n";
  return 2;
}
